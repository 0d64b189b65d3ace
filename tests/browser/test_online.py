"""A desktop in a browser: seen and typed into, through cut lines and dead nodes; to a device and back, with the same data."""

from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.conftest import PHONE, Online, Person, seat
from tests.browser.sight import LIVE, green, keep, notice, opened, sign_in, until, written
from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import Vault
from tests.harness.company import COUNT_AT, Device
from twofold.model.policy import Policy

pytestmark = pytest.mark.vm


@pytest.mark.timeout(180)
def test_seen_and_typed_into_and_back_after_the_line_was_cut(online: Online, page: Page, ada: Person) -> None:
    person = ada
    sign_in(page, online, person)
    card = page.locator(".card")
    assert "ready to open" in card.inner_text()
    keep(page, "desktops")
    card.locator(".button").click()
    page.wait_for_selector(LIVE)
    until(lambda: green(page))
    assert "node-1" in page.inner_text("#status")
    before = written(page)
    page.keyboard.type("hello")
    until(lambda: written(page) > before + 100)
    keep(page, "typed")
    assert page.locator("#clips").is_hidden(), "no direction is allowed"

    online.company.cut()
    notice(page, "cannot be reached")
    assert page.locator("#last").is_visible(), "the last picture stays, marked as not live"
    keep(page, "cut")
    assert page.locator(LIVE).count() == 0
    online.company.mend()
    page.wait_for_selector(LIVE)
    until(lambda: written(page) > before + 100)
    assert online.where(person) == "node-1"


@pytest.mark.timeout(240)
def test_check_out_takes_it_to_the_device_and_check_in_brings_it_back(
    online: Online, page: Page, laptop: Device, tmp_path: Path
) -> None:
    person, here = online.person(), Typed(laptop.home)
    with laptop.start() as client:
        client.call("enrol", url=online.company.admin.invite_device(person.name), name="laptop")
    assert here("open", "--online", "--print", "work").strip() == f"{online.origin}/online/desktop/work"
    opened(page, online, person)
    time.sleep(1)
    done = here.json("checkout", "work")
    assert done["result"]["epoch"] == 2, "a new holder, a new key epoch"
    said = notice(page, "is on laptop")
    assert "twofold checkin work" in said
    keep(page, "elsewhere")
    assert online.where(person) == "laptop"
    count = counted(laptop, tmp_path)
    assert count > 18, "it ran there for more than a second, and all of it came along"
    assert not list((online.node.home / "state" / "seats" / person.name / "workspaces").glob("work"))
    here("open", "--online", "work", code=6)
    assert "checkin" in here.err

    store = Vault(laptop, tmp_path / "r")
    store.write(struct.pack("<I", 1_000_000), COUNT_AT)
    here("checkin")
    assert online.where(person) == ""
    notice(page, "is off")
    page.click("#again")
    page.wait_for_selector(LIVE)
    until(lambda: green(page))
    time.sleep(1)
    here("checkout", "work")
    after = counted(laptop, tmp_path)
    assert 1_000_018 < after < 1_100_000, "it went on from what the laptop wrote"


def counted(laptop: Device, tmp_path: Path) -> int:
    return int(struct.unpack("<I", Vault(laptop, tmp_path / "r").read(4, COUNT_AT))[0])


@pytest.mark.timeout(240)
def test_a_node_that_dies_is_told_of_and_taken_up_again(online: Online, page: Page, ada: Person) -> None:
    opened(page, online, ada)
    page.keyboard.type("here")
    until(lambda: written(page) > 100)
    online.node.kill()
    said = notice(page, "can't be reached")
    assert "node-1" in said
    assert "saved" in said
    assert "by itself" in said
    keep(page, "node-away")
    online.node.start().close()
    page.wait_for_selector(LIVE)
    until(lambda: written(page) > 100)  # the machine went on meanwhile


@pytest.mark.long
@pytest.mark.timeout(180)
def test_a_machine_that_was_switched_off_says_so_and_starts_again(online: Online, page: Page, ada: Person) -> None:
    opened(page, online, ada)
    (pid,) = machines(online, ada.name)
    os.kill(pid, signal.SIGKILL)
    notice(page, "is off")
    page.click("#again")
    page.wait_for_selector(LIVE)
    until(lambda: green(page))


def machines(online: Online, user: str) -> list[int]:
    with seat(online.node, user) as client:
        return [each["pid"] for each in client.call("list")["workspaces"] if each["pid"]]


@pytest.mark.timeout(180)
def test_a_phone_types_with_its_own_keyboard(online: Online, chromium: Browser) -> None:
    person = online.person(colour="vermilion", policy=Policy(keys_leave=True, clipboard_to_work=True))
    context = chromium.new_context(
        ignore_https_errors=True,
        viewport={"width": PHONE[0], "height": PHONE[1]},
        device_scale_factor=2,
        is_mobile=True,
        has_touch=True,
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    page.goto(online.origin)
    keep(page, "phone-sign-in")
    sign_in(page, online, person)
    page.wait_for_selector(".card")
    keep(page, "phone-desktops")
    page.tap(".card .button")
    page.wait_for_selector(LIVE)
    until(lambda: green(page))
    before = written(page)
    page.tap("#keyboard")
    page.keyboard.insert_text("hi there")
    until(lambda: written(page) > before + 50)
    keep(page, "phone")
    page.tap("[data-key=Escape]")
    assert page.locator("#keys").is_visible(), "a key of the row leaves the keyboard open"
    assert page.locator("#clips").is_visible(), "one direction is allowed"
    page.tap("#clips")
    assert "does not let text out" in page.inner_text("#clipboard")
    keep(page, "phone-clipboard")
    context.close()
