"""What a test sees and does on the pages: a person with a browser."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from tests.browser.conftest import OUT, Online, Person
from tests.harness.shown import GREEN

LIVE = "body[data-live]"


def sign_in(page: Page, online: Online, person: Person, then: str = "/online") -> None:
    page.goto(online.origin + then)
    page.fill("#user", person.name)
    page.fill("#password", person.password)
    page.click("button[type=submit]")


def opened(page: Page, online: Online, person: Person) -> None:
    """Signed in, and looking at the live screen of `work`."""
    sign_in(page, online, person, "/online/desktop/work")
    page.wait_for_selector(LIVE)
    until(lambda: green(page))


def until(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def picture(page: Page) -> np.ndarray:
    """The pixels of the screen's canvas, as the browser shows them."""
    shot = page.locator("#screen canvas").first.screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


def green(page: Page) -> bool:
    """Whether the machine's green line is seen."""
    seen = picture(page).astype(int)
    return bool((np.abs(seen - np.array(GREEN)).sum(axis=2) < 40).mean() > 0.02)


def written(page: Page) -> int:
    """How many pixels of what was typed there are: the lower part of the screen is black but for that."""
    seen = picture(page)
    lines = seen[int(seen.shape[0] * 0.12) :]
    return int((lines.min(axis=2) > 100).sum())


def keep(page: Page, name: str) -> None:
    """A picture for people, in out/browser."""
    OUT.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=OUT / f"{name}.png")


def notice(page: Page, words: str, seconds: float = 30) -> str:
    """The whole notice, once it says this."""
    page.wait_for_function(
        """words => { const shown = document.getElementById("notice");
            return shown && !shown.hidden && shown.innerText.includes(words); }""",
        arg=words,
        timeout=seconds * 1000,
    )
    return page.inner_text("#notice")
