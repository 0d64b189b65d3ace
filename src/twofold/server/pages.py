"""The pages people see in a browser: sign in, "Your desktops", one desktop's screen. The gate says who is signed in.

They are server-rendered where nothing moves and plain ES modules where something does; what those ask for is JSON below the same
path. Nothing here is part of the API, and nothing of the API takes the cookie.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from anyio.to_thread import run_sync
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from twofold.model.errors import BadInputError, TwofoldError, UnknownError
from twofold.model.names import PALETTE
from twofold.server import audit, browser, online, policies, tickets
from twofold.server.bodies import Login
from twofold.server.context import Server, nothing
from twofold.server.gate import STATUS, Caller
from twofold.server.routes.accounts import signed_in
from twofold.server.tables import Lease, Token

_HERE = Path(__file__).parent
_SESSION_SECONDS = 12 * 3600
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_NEVER = {"Cache-Control": "no-store"}


class Pages:
    """One server's pages. The address of what lies in `static` changes with its contents, so that a browser may keep it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._statics = {
            str(path.relative_to(_HERE / "static")): path
            for path in sorted((_HERE / "static").rglob("*"))
            if path.suffix in _TYPES
        }
        mark = hashlib.sha256()
        for name, path in self._statics.items():
            mark.update(name.encode() + b"\0" + path.read_bytes())
        self._mark = mark.hexdigest()[:16]
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )

    def app(self) -> ASGIApp:
        root = browser.ROOT
        return Starlette(
            routes=[
                Route("/", self._home),
                Route(root, self._list),
                Route(f"{root}/desktop/{{name}}", self._desktop),
                Route(f"{root}/session", self._sign_in, methods=["POST"]),
                Route(f"{root}/session", self._sign_out, methods=["DELETE"]),
                Route(f"{root}/desktops", self._rows),
                Route(f"{root}/desktops/{{name}}", self._row),
                Route(f"{root}/desktops/{{name}}/open", self._open, methods=["POST"]),
                Route(f"{root}/desktops/{{name}}/ticket", self._ticket, methods=["POST"]),
                Route(f"{root}/static/{self._mark}/{{path:path}}", self._static),
            ],
            exception_handlers={TwofoldError: _said, 404: _unknown, 405: _unknown},
        )

    async def _home(self, _request: Request) -> Response:
        return RedirectResponse(browser.ROOT, 303, _NEVER)

    async def _list(self, request: Request) -> Response:
        caller = _caller(request)
        if caller is None:
            return self._page("sign-in.html", then="")
        return self._page("desktops.html", user=caller.user, desktops=await run_sync(self._told, caller))

    async def _desktop(self, request: Request) -> Response:
        """One desktop's page; it names nothing that its user does not have."""
        caller, name = _caller(request), request.path_params["name"]
        if caller is None:
            return self._page("sign-in.html", then=name)
        try:
            found = await run_sync(self._one, caller, name)
        except TwofoldError:
            return self._page("desktops.html", user=caller.user, desktops=await run_sync(self._told, caller))
        return self._page("desktop.html", user=caller.user, desktop=found)

    async def _sign_in(self, request: Request) -> Response:
        try:
            body = Login.model_validate_json(await request.body())
        except ValidationError as off:
            raise BadInputError("The name or the password cannot be read.") from off
        address = request.client.host if request.client else "?"
        token, _ = await run_sync(signed_in, self._server, body, address, _SESSION_SECONDS)
        cookie = {"Set-Cookie": browser.set_cookie(token, _SESSION_SECONDS)}
        return JSONResponse({}, headers=_NEVER | cookie)

    async def _sign_out(self, request: Request) -> Response:
        caller = _caller(request)
        if caller is not None:
            await run_sync(self._end, caller)
        return JSONResponse({}, headers=_NEVER | {"Set-Cookie": browser.set_cookie("", 0)})

    async def _rows(self, request: Request) -> Response:
        rows = await run_sync(self._told, _signed(request))
        return JSONResponse({"desktops": rows}, headers=_NEVER)

    async def _row(self, request: Request) -> Response:
        return JSONResponse(await run_sync(self._one, _signed(request), request.path_params["name"]), headers=_NEVER)

    async def _open(self, request: Request) -> Response:
        caller, name = _signed(request), request.path_params["name"]

        def ask() -> str:
            with self._server.database.write() as session:
                return online.open_(session, caller, online.mine(session, caller.user_id, name))

        self._server.bell.ring([await run_sync(ask)])
        return JSONResponse(await run_sync(self._one, caller, name), headers=_NEVER)

    async def _ticket(self, request: Request) -> Response:
        caller, name = _signed(request), request.path_params["name"]

        def issue() -> str:
            with self._server.database.write() as session:
                return tickets.issue(session, caller.user_id, online.mine(session, caller.user_id, name))

        return JSONResponse({"ticket": await run_sync(issue)}, headers=_NEVER)

    async def _static(self, request: Request) -> Response:
        path = self._statics.get(request.path_params["path"])
        if path is None:
            raise nothing("file")
        return Response(await run_sync(path.read_bytes), headers=_FOREVER, media_type=_TYPES[path.suffix])

    def _told(self, caller: Caller) -> list[dict[str, Any]]:
        with self._server.database.read() as session:
            return [self._wire(session, each) for each in online.leases_of(session, caller.user_id)]

    def _one(self, caller: Caller, name: str) -> dict[str, Any]:
        with self._server.database.read() as session:
            return self._wire(session, online.mine(session, caller.user_id, name))

    def _wire(self, session: Any, lease: Lease) -> dict[str, Any]:
        """As the page has it. What the database believes to run is `open` where its node has a line here, `away` where it
        has not."""
        found = online.desktop(session, lease)
        shown = self._server.gateway.has(lease.grant_id)
        policy, _ = policies.of(session, lease.grant)
        state = {"held": "open" if shown else "away", "ready": "open" if shown and lease.device else "ready"}
        clipboard = {"to_work": policy.clipboard_to_work, "from_work": policy.clipboard_from_work}
        return dataclasses.asdict(found) | {
            "state": state.get(found.state, found.state),
            "tint": PALETTE[found.colour],
            "clipboard": clipboard,
        }

    def _end(self, caller: Caller) -> None:
        with self._server.database.write() as session:
            held = session.get(Token, caller.token)
            if held is not None:
                session.delete(held)
                audit.record(session, caller.actor, "logout", caller.user)

    def _page(self, template: str, **facts: object) -> Response:
        static = f"{browser.ROOT}/static/{self._mark}"
        text = self._templates.get_template(template).render(
            company=self._server.home.company, static=static, root=browser.ROOT, **facts
        )
        return HTMLResponse(text, headers=_NEVER)


def _caller(request: Request) -> Caller | None:
    caller = request.scope.get("twofold.caller")
    return caller if isinstance(caller, Caller) else None


def _signed(request: Request) -> Caller:
    caller = _caller(request)
    if caller is None:
        raise UnknownError("Sign in first.")
    return caller


async def _said(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TwofoldError)
    status = 401 if isinstance(error, UnknownError) else STATUS[error.code]
    return JSONResponse({"error": error.to_wire()}, status, headers=_NEVER)


async def _unknown(request: Request, _error: Exception) -> Response:
    return await _said(request, nothing("page"))
