"""A company with a node, and a browser: real server, real agents, real disks' processes, real machines, Debian's chromium."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.harness.company import Company, Device
from tests.harness.shown import shown
from twofold.agent.client import Client
from twofold.model.policy import Policy
from twofold.platform.run import find

OUT = Path(__file__).resolve().parents[2] / "out" / "browser"
DESKTOP, PHONE = (1280, 800), (390, 844)
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Person:
    name: str
    password: str


class Online:
    """What tests do with a company that has a node."""

    def __init__(self, company: Company, node: Device) -> None:
        self.company, self.node = company, node

    @property
    def origin(self) -> str:
        return str(self.company.admin.place.origin)

    def person(self, *, policy: Policy = Policy(keys_leave=True), title: str = "Work", colour: str = "teal") -> Person:
        """Somebody with a workspace `work`."""
        made = Person(f"p{next(_NUMBERS)}", secrets.token_urlsafe(18))
        self.company.admin.create_user(made.name, made.password)
        self.company.admin.add_grant(made.name, "shown", "work", title, colour, policy)
        return made

    def where(self, person: Person) -> str:
        """The name of the machine that has it."""
        return str(self.company.admin.find_workspace(person.name, "work")["device_name"])


@pytest.fixture(scope="package")
def online(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Online]:
    folder = tmp_path_factory.mktemp("online")
    with Company(folder) as company:
        company.admin.publish_image(shown(folder / "shown", "shown"), company.publisher)
        node = Device(folder / "node")
        try:
            with node.start() as client:
                client.call("enrol", url=company.admin.invite_device("admin", kind="node"), name="node-1")
            yield Online(company, node)
        finally:
            close_node(node)


def seat(node: Device, user: str) -> Client:
    """A client of the agent in a user's seat."""
    tag = hashlib.sha256(user.encode()).hexdigest()[:8]
    return Client(node.dirs.runtime / f"s{tag}" / "agent.sock")


def close_node(node: Device) -> None:
    """End a node and every machine that its seats left."""
    for folder in sorted((node.home / "state" / "seats").glob("*")):
        with seat(node, folder.name) as client:
            for each in client.call("list")["workspaces"]:
                if each["pid"]:
                    client.finish("off", workspace=each["workspace"], limit=60)
    node.close()


@pytest.fixture(scope="package")
def ada(online: Online) -> Person:
    """Somebody whose workspace stays where the tests leave it: on the node, running."""
    return online.person()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find("chromium"), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    made = chromium.new_context(ignore_https_errors=True, viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    page = context.new_page()
    page.set_default_timeout(30_000)
    return page


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "laptop")
    yield made
    made.close()
