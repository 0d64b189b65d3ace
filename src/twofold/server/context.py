"""What a route is given: the server's parts, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from twofold.model.errors import NotFoundError, UnknownError
from twofold.server.accounts import Limiter
from twofold.server.database import Database
from twofold.server.gate import Caller
from twofold.server.home import Home
from twofold.server.objects import Objects

if TYPE_CHECKING:
    from twofold.server.commands import Bell
    from twofold.server.gateway import Gateway


@dataclass(frozen=True)
class Server:
    """`guesses` counts failed logins and codes by whom and from where."""

    home: Home
    database: Database
    objects: Objects
    bell: Bell
    guesses: Limiter
    guesses_from: Limiter
    gateway: Gateway


def _server(request: Request) -> Server:
    return cast(Server, request.app.state.twofold)


def _caller(request: Request) -> Caller:
    caller = request.scope.get("twofold.caller")
    if not isinstance(caller, Caller):  # a route outside the gate's public ones: never reached without a caller
        raise UnknownError("Sign in first.")
    return caller


def _address(request: Request) -> str:
    return request.client.host if request.client else "?"


TheServer = Annotated[Server, Depends(_server)]
TheCaller = Annotated[Caller, Depends(_caller)]
Address = Annotated[str, Depends(_address)]


def nothing(what: str) -> NotFoundError:
    return NotFoundError(f"There is no such {what}.")
