"""Who may do what: a matrix over every route there is, so that a new one is in it by itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.unit.server_kit import ADMIN, PASSWORD, Backend, Local
from twofold.server.app import routes
from twofold.server.gate import ANY_USER, PUBLIC
from twofold.server.tables import Base
from twofold.trust import request
from twofold.trust.device import Identity, identity
from twofold.trust.https import API

ALL = sorted(
    (method, path) for path, verbs in routes().openapi()["paths"].items() for method in (verb.upper() for verb in verbs)
)


@pytest.fixture(scope="module")
def server(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = backend.make(tmp_path_factory.mktemp("server") / "home")
    local.call("POST", "users", {"name": "ada", "password": "ada ada ada ada"})
    yield local
    local.database.close()


@pytest.fixture(scope="module")
def device(server: Local, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    who = identity(tmp_path_factory.mktemp("device"))
    code = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    assert server.enrol(who, code).status_code == 201
    return who


@pytest.fixture(scope="module")
def ada(server: Local) -> str:
    return server.login("ada", "ada ada ada ada")


def fill(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "1", path)


def test_the_matrix_is_not_empty() -> None:
    assert len(ALL) > 25
    assert set(PUBLIC) <= set(ALL)


@pytest.mark.parametrize(("method", "path"), [row for row in ALL if row not in PUBLIC])
def test_a_stranger_learns_nothing(server: Local, method: str, path: str) -> None:
    there = server.raw(method, fill(path), b"{}", {"Content-Type": "application/json"})
    nowhere = server.raw(method, f"{API}/no/such/thing", b"{}", {"Content-Type": "application/json"})
    assert there.status_code == nowhere.status_code == 401
    assert there.content == nowhere.content
    assert there.headers == nowhere.headers


@pytest.mark.parametrize(("method", "path"), [row for row in ALL if row not in PUBLIC])
def test_a_user_without_rights_learns_nothing(server: Local, ada: str, method: str, path: str) -> None:
    token = server.login("ada", "ada ada ada ada") if path in ANY_USER else ada
    answer = server.call(method, fill(path)[len(API) + 1 :], {} if method == "POST" else None, token)
    if path in ANY_USER:
        assert answer.status_code == 200
    else:
        nowhere = server.call(method, "no/such/thing", {} if method == "POST" else None, token)
        assert answer.status_code == nowhere.status_code == 403
        assert answer.content == nowhere.content


@pytest.mark.parametrize(("method", "path"), [row for row in ALL if row not in PUBLIC])
def test_a_device_reaches_its_own_routes_alone(server: Local, device: Identity, method: str, path: str) -> None:
    target = fill(path)
    streams = path.startswith(f"{API}/device/") and method == "PUT"  # a file is vouched for by its path
    headers = request.headers(device.signing, server.home.signing.id, method, target, b"" if streams else b"{}")
    kind = "application/octet-stream" if streams else "application/json"
    answer = server.raw(method, target, b"{}", headers | {"Content-Type": kind})
    if path.startswith(f"{API}/device/"):
        assert answer.status_code in (200, 400, 404), answer.text
    else:
        assert answer.status_code == 403


@pytest.mark.parametrize("path", [path for method, path in ALL if path.startswith(f"{API}/device/")])
def test_not_even_an_administrator_is_a_device(server: Local, path: str) -> None:
    assert server.call("GET", fill(path)[len(API) + 1 :]).status_code == 403


def test_a_signed_request_is_taken_once(server: Local, device: Identity) -> None:
    path = f"{API}/device/grants"
    headers = request.headers(device.signing, server.home.signing.id, "GET", path, b"")
    assert server.raw("GET", path, headers=headers).status_code == 200
    assert server.raw("GET", path, headers=headers).status_code == 401
    assert server.raw("GET", path + "?x=1", headers=headers).status_code == 401


def test_an_old_or_foreign_request_is_refused(
    server: Local, device: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stranger = f"{API}/device/grants", identity(tmp_path / "other")
    for headers in (
        request.headers(device.signing, "0" * 64, "GET", path, b""),
        request.headers(stranger.signing, server.home.signing.id, "GET", path, b""),
        request.headers(stranger.signing, server.home.signing.id, "GET", path, b"") | {"Twofold-Device": device.device},
    ):
        assert server.raw("GET", path, headers=headers).status_code == 401
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - request.WINDOW - 5)
    old = request.headers(device.signing, server.home.signing.id, "GET", path, b"")
    monkeypatch.undo()
    assert server.raw("GET", path, headers=old).status_code == 401


def test_passwords_and_tokens_are_not_in_the_database(server: Local) -> None:
    token = server.login(ADMIN, PASSWORD)
    code = server.call("POST", "invitations", {"user": "ada"}).json()["code"]
    with server.database.engine.connect() as connection:
        rows = [connection.execute(select(table)).all() for table in Base.metadata.sorted_tables]
    held = repr(rows).encode() + b"".join(path.read_bytes() for path in server.home.folder.glob("server.db*"))
    assert b"$argon2id$" in held
    for secret in (token, code, PASSWORD, "ada ada ada ada"):
        assert secret.encode() not in held


def test_a_token_ends_at_log_out(server: Local) -> None:
    token = server.login("ada", "ada ada ada ada")
    assert server.call("GET", "whoami", token=token).json() == {"user": "ada", "admin": False}
    assert server.call("POST", "logout", {}, token).status_code == 200
    assert server.call("GET", "whoami", token=token).status_code == 401


def test_a_wrong_name_and_a_wrong_password_sound_alike(server: Local) -> None:
    answers = [server.call("POST", "login", {"user": user, "password": "x"}, "") for user in ("ada", "nobody")]
    assert {answer.status_code for answer in answers} == {401}
    assert answers[0].content == answers[1].content


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    local = Local(tmp_path / "home")
    guess = {"user": ADMIN, "password": "x"}
    statuses = [local.call("POST", "login", guess, "").status_code for _ in range(7)]
    assert statuses == [401] * 5 + [403] * 2
    assert local.call("POST", "login", {"user": ADMIN, "password": PASSWORD}, "").status_code == 403
    assert local.call("POST", "login", {"user": "other", "password": "x"}, "").status_code == 401
    local.database.close()


def test_a_guessed_secret_does_not_come_back(server: Local) -> None:
    answer = server.call("POST", "login", {"user": 7, "password": "hunter2hunter2", "extra": "hunter2hunter2"}, "")
    assert answer.status_code == 400
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:8443"},
        {"Host": ""},
        {"Host": "localhost:8443@evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8443"},
        {"Origin": "https://localhost:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_get_nothing_even_with_a_good_token(server: Local, headers: dict[str, str]) -> None:
    token = server.token
    good = {"Authorization": f"Bearer {token}"}
    assert server.raw("GET", f"{API}/users", headers=good).status_code == 200
    for path in (f"{API}/users", f"{API}/authority", f"{API}/nothing"):
        answer = server.raw("GET", path, headers=good | headers)
        assert answer.status_code == 403
        assert "ada" not in answer.text
    assert server.raw("GET", f"{API}/users", headers=good | {"Origin": "https://localhost:8443"}).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_read(server: Local, kind: str) -> None:
    token = server.token
    body = json.dumps({"name": "mallory", "password": "mallory mallory", "admin": True}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    assert server.raw("POST", f"{API}/users", body, headers).status_code == 400
    assert "mallory" not in server.call("GET", "users").text


def test_answers_cannot_be_framed_cached_sniffed_or_shared(server: Local) -> None:
    for answer in (server.call("GET", "users"), server.raw("GET", "/"), server.raw("GET", f"{API}/authority")):
        assert answer.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in answer.headers if name.startswith("access-control-") or name == "set-cookie"]


def test_a_body_has_a_size(server: Local) -> None:
    answer = server.call("POST", "login", {"user": "ada", "password": "x" * (2 << 20)}, "")
    assert answer.status_code == 400
    assert "longer than" in answer.text


def test_the_openapi_document_in_the_tree_is_this_one() -> None:
    held = json.loads((Path(__file__).parents[2] / "docs" / "openapi-v1.json").read_text())
    assert held == routes().openapi(), "regenerate it: python -m twofold.server --home . openapi > docs/openapi-v1.json"
