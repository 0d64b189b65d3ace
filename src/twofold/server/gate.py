"""What every request passes before any route sees it. What is not allowed here is denied, and unknown callers learn nothing:
to them every path but three answers the same, whether it exists or not.

    /authority, /login, /enrol    anybody (each guards itself)
    /device/...                   an enrolled device that signed the request
    /whoami, /logout              a signed-in user
    /, /online...                 a browser (server.browser): pages anybody, what is in them a signed-in user
    everything else               an administrator

Two WebSockets are let through and no other: a seat's line for a screen (/device/screen/NAME), signed as any request, and a
browser's (/online/screen), from a page of ours, of a signed-in user, with a ticket of that user's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio
import structlog
from anyio.to_thread import run_sync
from sqlalchemy import delete
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twofold.model.errors import BadInputError, RefusedError, TimedOutError, TwofoldError, UnknownError
from twofold.server import browser
from twofold.server.accounts import digest
from twofold.server.database import Database, insert_new
from twofold.server.home import Home
from twofold.server.tables import Device, Nonce, Token
from twofold.trust import request
from twofold.trust.https import API
from twofold.trust.keys import VerifyKey

PUBLIC = {("GET", f"{API}/authority"), ("POST", f"{API}/login"), ("POST", f"{API}/enrol")}
ANY_USER = {f"{API}/whoami", f"{API}/logout"}
SCREEN = f"{API}/device/screen/"
_TINY = 1 << 16
_SMALL, _MANIFEST, _INDEX, _CHUNKS = 1 << 20, 16 << 20, 256 << 20, 72 << 20
_STREAMED = f"{API}/device/objects/"
_BODY_SECONDS = 120

STATUS = {
    "usage": 400, "missing": 501, "not-found": 404, "refused": 403, "conflict": 409, "damaged": 500, "no-room": 507,
    "unreachable": 502, "timed-out": 408, "bad-input": 400, "failed": 500,
}  # fmt: skip
HEADERS = (
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
_log = structlog.get_logger("twofold.server")


@dataclass(frozen=True)
class Caller:
    """Who asks, proved. `device` is empty for a person, `token` is the digest of a person's token."""

    user_id: int
    user: str
    admin: bool
    device: str = ""
    token: str = ""

    @property
    def actor(self) -> str:
        """As the audit log names it."""
        return f"device {self.device[:16]}" if self.device else f"user {self.user}"


class Screens(Protocol):
    """Where a WebSocket goes once it is known who asks (`server.screens`). What they raise before they accept refuses it."""

    async def offer(self, caller: Caller, untrusted_workspace: str, receive: Receive, send: Send) -> None: ...

    async def view(self, caller: Caller, untrusted_protocols: Sequence[str], receive: Receive, send: Send) -> None: ...


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, home: Home, database: Database, pages: ASGIApp, screens: Screens) -> None:
        self._app, self._pages, self._screens = app, pages, screens
        self._database = database
        self._server = home.signing.id
        self._hosts = {f"[{name}]" if ":" in name else name for name in home.names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started, status, who = time.monotonic(), 0, "nobody"

        added = browser.HEADERS if browser.ours(scope["path"]) else HEADERS

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            caller, body = await self._admit(scope, receive)
            who = caller.actor if caller else who
            scope["twofold.caller"] = caller
            app = self._pages if browser.ours(scope["path"]) else self._app
            await app(scope, receive if body is None else _replay(body, receive), answer)
        except TwofoldError as no:
            await refuse(no, answer)
        finally:
            took = round((time.monotonic() - started) * 1000)
            _log.info("request", method=scope["method"], path=scope["path"], status=status, ms=took, who=who)

    async def _admit(self, scope: Scope, receive: Receive) -> tuple[Caller | None, bytes | None]:
        """Validate, authenticate, authorise. A body of None is still to come."""
        untrusted_headers = _headers(scope)
        method, path = scope["method"], scope["path"]
        self._same_site(untrusted_headers, visit=browser.ours(path) and browser.visit(method, untrusted_headers))
        if browser.ours(path):
            _check_kind(method, path, untrusted_headers)
            visitor = await run_sync(self._visitor, untrusted_headers)
            return visitor, await _body(receive, untrusted_headers, _TINY)
        if (method, path) in PUBLIC:
            _check_kind(method, path, untrusted_headers)
            return None, await _body(receive, untrusted_headers, _SMALL)
        if "authorization" in untrusted_headers and "twofold-device" not in untrusted_headers:
            caller = await run_sync(self._person, untrusted_headers["authorization"])
            allowed = not path.startswith(f"{API}/device/") and (caller.admin or path in ANY_USER)
            if not allowed:
                raise RefusedError("This account may not do that.")
            _check_kind(method, path, untrusted_headers)
            return caller, await _body(receive, untrusted_headers, _limit(path))
        if "twofold-device" not in untrusted_headers:
            raise UnknownError(_WHO)
        try:
            claim = request.claim(untrusted_headers)
        except RefusedError as off:
            raise UnknownError(_WHO) from off
        key, caller = await run_sync(self._device, claim.device)
        streams = method == "PUT" and path.startswith(_STREAMED)
        # A file on its way proves itself by the digest in its signed path; its route takes it piece by piece.
        body = b"" if streams else await _body(receive, untrusted_headers, _limit(path))
        await self._proved(scope, claim, key, method, body)
        if not path.startswith(f"{API}/device/"):
            raise RefusedError("This device may not do that.")
        _check_kind(method, path, untrusted_headers)
        return caller, None if streams else body

    async def _proved(self, scope: Scope, claim: request.Claim, key: VerifyKey, method: str, body: bytes) -> None:
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        try:
            request.check(claim, key, self._server, method, target, body, time.time())
        except RefusedError as off:
            raise UnknownError(_WHO) from off
        await run_sync(self._once, claim)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket: refused before it is one, or handed to the gateway with who asks."""
        path, who, started = scope["path"], "nobody", time.monotonic()
        try:
            untrusted_headers = _headers(scope)
            self._same_site(untrusted_headers)
            if path.startswith(SCREEN) and "origin" not in untrusted_headers:  # a browser always says one
                claim = request.claim(untrusted_headers)
                key, caller = await run_sync(self._device, claim.device)
                await self._proved(scope, claim, key, "GET", b"")
                who = caller.actor
                await self._screens.offer(caller, path.removeprefix(SCREEN), receive, send)
            elif path == browser.SOCKET:
                browser.require_origin(untrusted_headers)
                visitor = await run_sync(self._visitor, untrusted_headers)
                if visitor is None:
                    raise UnknownError(_WHO)
                who = visitor.actor
                await self._screens.view(visitor, scope.get("subprotocols") or (), receive, send)
            else:
                raise RefusedError("There is no such socket.")
        except TwofoldError:
            await send(
                {"type": "websocket.close", "code": 1008, "reason": ""}
            )  # before it was one: 403, without a word
        took = round((time.monotonic() - started) * 1000)
        _log.info("socket", path=path if path == browser.SOCKET else SCREEN, ms=took, who=who)

    def _visitor(self, untrusted_headers: dict[str, str]) -> Caller | None:
        """Who is signed in, in this browser."""
        token = browser.cookie(untrusted_headers)
        try:
            return self._person(f"bearer {token}") if token else None
        except UnknownError:
            return None

    def _same_site(self, untrusted_headers: dict[str, str], *, visit: bool = False) -> None:
        """Refuse what a web page of another site makes a browser send: by name (DNS rebinding) and by origin."""
        untrusted_host = untrusted_headers.get("host", "")
        name, _, port = untrusted_host.rpartition(":") if not untrusted_host.endswith("]") else (untrusted_host, "", "")
        if not name:
            name, port = untrusted_host, ""
        if name.lower() not in self._hosts or not (port == "" or port.isdigit()):
            raise RefusedError("This server does not answer to that name.")
        origin = untrusted_headers.get("origin")
        if origin is not None and origin != f"https://{untrusted_host}":
            raise RefusedError("Requests from other sites are refused.")
        if not visit and untrusted_headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise RefusedError("Requests from other sites are refused.")

    def _person(self, untrusted_authorization: str) -> Caller:
        scheme, _, token = untrusted_authorization.partition(" ")
        if scheme.lower() != "bearer" or not 8 <= len(token) <= 128:
            raise UnknownError(_WHO)
        hashed = digest(token)
        with self._database.read() as session:
            held = session.get(Token, hashed)  # found by digest: how long the search takes tells nothing about a token
            if held is None or held.expires <= time.time():
                raise UnknownError(_WHO)
            return Caller(held.user_id, held.user.name, held.user.admin, token=hashed)

    def _device(self, untrusted_id: str) -> tuple[VerifyKey, Caller]:
        with self._database.read() as session:
            held = session.get(Device, untrusted_id)
            node = session.get(Device, held.node_id) if held is not None and held.node_id else None
            if held is None or held.revoked or (node is not None and node.revoked):
                raise UnknownError(_WHO)
            return VerifyKey.from_hex(held.public), Caller(held.user_id, held.user.name, admin=False, device=held.id)

    def _once(self, claim: request.Claim) -> None:
        now = int(time.time())
        with self._database.write() as session:
            session.execute(delete(Nonce).where(Nonce.time < now - 3 * request.WINDOW))
            row = {"device_id": claim.device, "nonce": claim.nonce, "time": now}
            # One statement both asks and remembers; no row comes back for a nonce that was there.
            taken = insert_new(session, Nonce).values(**row).on_conflict_do_nothing().returning(Nonce.nonce)
            if session.scalar(taken) is None:
                raise UnknownError(_WHO)
            device = session.get_one(Device, claim.device)
            device.seen = now


_WHO = "Sign in first."
_ONCE = {"host", "origin", "authorization", "cookie", "content-type", "content-length", "sec-fetch-site"} | {
    f"twofold-{name}" for name in ("device", "time", "nonce", "signature")
}


def _headers(scope: Scope) -> dict[str, str]:
    untrusted_headers: dict[str, str] = {}
    for raw_name, value in scope["headers"]:
        name = raw_name.decode("latin-1").lower()
        if name in untrusted_headers and name in _ONCE:
            raise BadInputError("The request repeats a header.")
        untrusted_headers[name] = value.decode("latin-1")
    return untrusted_headers


def _limit(path: str) -> int:
    if path == f"{API}/chunks":
        return _CHUNKS
    if path in (f"{API}/device/generations", f"{API}/device/objects/missing"):
        return _MANIFEST
    return _INDEX if path.startswith(f"{API}/images/") else _SMALL


def _check_kind(method: str, path: str, untrusted_headers: dict[str, str]) -> None:
    """Only what no HTML form and no simple cross-site request can send."""
    streams = path == f"{API}/chunks" or (method == "PUT" and path.startswith(_STREAMED))
    wanted = "application/octet-stream" if streams else "application/json"
    if (
        method in ("POST", "PUT")
        and untrusted_headers.get("content-type", "").partition(";")[0].strip().lower() != wanted
    ):
        raise BadInputError(f"The body must be {wanted}.")


async def _body(receive: Receive, untrusted_headers: dict[str, str], limit: int) -> bytes:
    stated = untrusted_headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > limit:
        raise BadInputError(f"The body is longer than {limit} bytes.")
    parts, size = [], 0
    try:
        with anyio.fail_after(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BadInputError("The body is not whole.")
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise BadInputError(f"The body is longer than {limit} bytes.")
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as late:
        raise TimedOutError("The body did not come in time.") from late


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(error: TwofoldError, send: Send) -> None:
    """Say an error as the protocol does."""
    status = 401 if isinstance(error, UnknownError) else STATUS[error.code]
    body = json.dumps({"error": error.to_wire()}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
