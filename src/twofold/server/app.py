"""The application: routes behind the gate."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from twofold import __version__
from twofold.model.errors import BadInputError, NoRoomError, NotFoundError, RefusedError, TwofoldError, UnknownError
from twofold.server.accounts import Limiter
from twofold.server.commands import Bell
from twofold.server.context import Server
from twofold.server.database import Database, is_full
from twofold.server.gate import STATUS, Gate
from twofold.server.gateway import Gateway
from twofold.server.home import Home
from twofold.server.objects import opened
from twofold.server.pages import Pages
from twofold.server.routes import (
    accounts,
    device,
    device_images,
    devices,
    enrolment,
    grants,
    groups,
    images,
    vaults,
    workspaces,
)
from twofold.server.screens import Screens
from twofold.trust.https import API

_log = structlog.get_logger("twofold.server")


def routes() -> FastAPI:
    """The bare application, as `docs/openapi-v1.json` describes it. It serves no documentation of itself."""
    app = FastAPI(title="Twofold", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    for module in (accounts, images, grants, groups, devices, enrolment, device, device_images, vaults, workspaces):
        app.include_router(module.router, prefix=API)
    app.add_exception_handler(TwofoldError, _said)
    app.add_exception_handler(RequestValidationError, _malformed)
    for kind in (DataError, UnicodeEncodeError, OverflowError):
        app.add_exception_handler(kind, _unstorable)
    app.add_exception_handler(OSError, _full)
    app.add_exception_handler(OperationalError, _full)
    app.add_exception_handler(HTTPException, _other)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def application(home: Home, database: Database) -> ASGIApp:
    """The whole server."""
    app = routes()
    server = Server(
        home,
        database,
        opened(home.objects),
        Bell(),
        guesses=Limiter(5),
        guesses_from=Limiter(30),
        gateway=Gateway(),
    )
    app.state.twofold = server
    return Gate(app, home, database, Pages(server).app(), Screens(server))


def _answer(error: TwofoldError) -> JSONResponse:
    return JSONResponse({"error": error.to_wire()}, 401 if isinstance(error, UnknownError) else STATUS[error.code])


async def _said(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TwofoldError)
    return _answer(error)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # Where and why, never what: a password in the wrong field must not come back or reach a log.
    faults = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()[:3]]
    return _answer(BadInputError(f"The request is malformed. {'; '.join(faults)}"[:500]))


async def _unstorable(_request: Request, _error: Exception) -> JSONResponse:
    # Text with characters, or numbers of a size, that a database has no room for: nothing is called that.
    return _answer(BadInputError("The request has characters or numbers that cannot be stored."))


async def _full(request: Request, error: Exception) -> JSONResponse:
    if not is_full(error):
        return await _unforeseen(request, error)
    _log.error("the disk is full", kind=type(error).__name__)
    return _answer(
        NoRoomError(
            "The disk of your company's server is full.",
            safe="Nothing was changed there, and what it had before is not affected.",
            next="Your administrator has to make room; then do the same again.",
        )
    )


async def _other(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _answer(NotFoundError("There is no such thing."))
    if error.status_code == 405:
        return _answer(RefusedError("That cannot be done to it."))
    return _answer(BadInputError("The request is malformed."))


async def _unforeseen(_request: Request, error: Exception) -> JSONResponse:
    _log.error("unforeseen", kind=type(error).__name__, exc_info=error)
    return _answer(TwofoldError("The server failed at this request.", next="Its log says where."))
