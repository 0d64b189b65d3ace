"""Whoever is not the person, or comes from another page, or twice, gets no screen."""

from __future__ import annotations

import http.server
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.browser.conftest import Online, Person
from tests.browser.sight import LIVE, notice, opened, sign_in
from twofold.model.policy import Policy

pytestmark = pytest.mark.vm

WORK = "work"
TICKET = """async () => (await (await fetch("/online/desktops/" + "work" + "/ticket",
    {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"})).json()).ticket"""
SOCKET = """([origin, ticket]) => new Promise(done => {
    const socket = new WebSocket(origin.replace("https", "wss") + "/online/screen", ["twofold-screen-1", "ticket." + ticket]);
    socket.onmessage = () => { done("seen"); socket.close(); }; socket.onclose = event => done(event.code);
    socket.onopen = () => setTimeout(() => done("open"), 8000); socket.onerror = () => done("refused"); })"""


def cookie(page: Page) -> str:
    return "; ".join(f"{each['name']}={each['value']}" for each in page.context.cookies())


def knock(online: Online, ticket: str, **headers: str) -> str:
    """A WebSocket by hand: "open", or the status that it was refused with."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    protocols: Any = ["twofold-screen-1", f"ticket.{ticket}"]
    url = online.origin.replace("https", "wss") + "/online/screen"
    try:
        with connect(url, ssl=trusting, subprotocols=protocols, additional_headers=headers, proxy=None):
            return "open"
    except InvalidStatus as no:
        return str(no.response.status_code)


@contextmanager
def elsewhere(text: str) -> Iterator[str]:
    """A page of another origin on this machine."""

    class Plain(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{made.server_port}/"
        finally:
            made.shutdown()
            thread.join()


@pytest.mark.timeout(240)
def test_a_ticket_is_one_persons_once_soon_and_from_our_page(
    online: Online, page: Page, chromium: Browser, ada: Person
) -> None:
    eve = online.person()
    opened(page, online, ada)
    other = chromium.new_context(ignore_https_errors=True).new_page()
    sign_in(other, online, eve)
    other.wait_for_selector(".card")
    own, good = cookie(page), {"Origin": online.origin}

    assert knock(online, page.evaluate(TICKET), Origin=online.origin) == "403", "nobody is signed in"
    assert knock(online, page.evaluate(TICKET), Cookie=own) == "403", "no origin"
    for origin in ("https://evil.example", "null", online.origin.replace("https", "http"), f"{online.origin}0"):
        assert knock(online, page.evaluate(TICKET), Cookie=own, Origin=origin) == "403", origin
    assert knock(online, page.evaluate(TICKET), Cookie=own, Host="evil.example", **good) == "403"
    assert knock(online, "A" * 43, Cookie=own, **good) == "403", "made up"

    stolen = page.evaluate(TICKET)
    assert knock(online, stolen, Cookie=cookie(other), **good) == "403", "another person's"
    assert knock(online, stolen, Cookie=own, **good) == "403", "and gone by that"
    assert other.evaluate(SOCKET, [online.origin, page.evaluate(TICKET)]) == "refused"

    late = page.evaluate(TICKET)
    assert page.locator(LIVE).count() == 1, "none of this has disturbed the one who looks"
    ticket = page.evaluate(TICKET)
    assert knock(online, ticket, Cookie=own, **good) == "open"
    assert knock(online, ticket, Cookie=own, **good) == "403", "twice"
    notice(page, "another window")

    with elsewhere("<!doctype html>") as evil:
        intruder = page.context.new_page()
        intruder.goto(evil)
        assert intruder.evaluate(SOCKET, [online.origin, late]) == "refused"
    other.context.close()


@pytest.mark.timeout(120)
def test_the_pages_tell_strangers_nothing_and_people_only_of_their_own(online: Online, page: Page) -> None:
    ada = online.person()
    page.goto(f"{online.origin}/online/desktop/work")
    assert page.locator("#password").is_visible()
    asked = {"/online/desktops": "GET", "/online/desktops/work": "GET", f"/online/desktops/{WORK}/open": "POST"}
    statuses = """async asked => Promise.all(Object.entries(asked).map(async ([path, method]) => (await fetch(path, {method,
        headers: method == "POST" ? {"Content-Type": "application/json"} : {}, body: method == "POST" ? "{}" :
        undefined})).status))"""
    assert page.evaluate(statuses, asked) == [401, 401, 401]
    sign_in(page, online, ada)
    page.wait_for_selector(".card")
    assert page.evaluate(statuses, {"/online/desktops/nothing": "GET", "/api/v1/whoami": "GET"}) == [404, 401]
    assert page.evaluate("document.cookie") == "", "no script sees the session"
    cookies: Any = page.context.cookies()
    (held,) = cookies
    assert (held["httpOnly"], held["secure"], held["sameSite"]) == (True, True, "Strict")
    page.click("#sign-out")
    page.wait_for_selector("#password")
    again: Any = {"name": held["name"], "value": held["value"], "url": online.origin, "secure": True}
    page.context.add_cookies([again])
    assert page.evaluate(statuses, {"/online/desktops": "GET"}) == [401], "ended at the server, not only here"


@pytest.mark.long
@pytest.mark.timeout(120)
def test_signing_out_ends_the_screen(online: Online, page: Page, ada: Person) -> None:
    opened(page, online, ada)
    began = time.monotonic()
    page.evaluate("fetch('/online/session', {method: 'DELETE'})")
    page.wait_for_selector("#password")
    assert time.monotonic() - began < 12


@pytest.mark.timeout(60)
def test_what_the_policy_does_not_let_out_is_not_opened(online: Online, page: Page) -> None:
    sign_in(page, online, online.person(policy=Policy()), "/online/desktop/work")
    said = notice(page, "does not let")
    assert "twofold checkout work" in said


@pytest.mark.timeout(60)
def test_nothing_on_the_pages_is_inline_or_from_elsewhere(online: Online, page: Page) -> None:
    broken: list[str] = []
    page.on("console", lambda said: broken.append(said.text) if "Content Security Policy" in said.text else None)
    answer = page.goto(online.origin)
    assert answer is not None
    policy = answer.headers["content-security-policy"]
    assert "'unsafe-inline'" not in policy
    assert "default-src 'none'" in policy
    assert answer.headers["x-frame-options"] == "DENY"
    sign_in(page, online, online.person(), "/online")
    page.wait_for_selector(".card")
    assert not broken
