"""Signing in, and users."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from twofold.model.errors import BadInputError, ConflictError, UnknownError
from twofold.model.names import slug
from twofold.server import audit
from twofold.server.accounts import (
    MAX_PASSWORD,
    MIN_PASSWORD,
    TOKEN_DAYS,
    digest,
    new_token,
    password_hash,
    password_holds,
)
from twofold.server.bodies import Login, NewUser
from twofold.server.context import Address, Server, TheCaller, TheServer
from twofold.server.once import TheOnce
from twofold.server.tables import Token, User

router = APIRouter(tags=["accounts"])


@router.post("/login")
def login(body: Login, server: TheServer, address: Address) -> dict[str, Any]:
    """A bearer token for a name and a password. The same answer for a wrong name and a wrong password."""
    token, expires = signed_in(server, body, address, TOKEN_DAYS * 86400)
    return {"token": token, "expires": expires}


def signed_in(server: Server, body: Login, address: str, seconds: int) -> tuple[str, int]:
    """A new token for `seconds`, and when it ends (Unix seconds).

    Raises:
        UnknownError: the name or the password is wrong. RefusedError: too many attempts.
    """
    pair = f"{body.user}\n{address}"
    server.guesses.check(pair)
    server.guesses_from.check(address)
    with server.database.read() as session:
        user = session.scalar(select(User).where(User.name == body.user))
        stored = user.password if user else None
    if not password_holds(stored, body.password):
        server.guesses.failed(pair)
        server.guesses_from.failed(address)
        raise UnknownError("The name or the password is wrong.")
    assert user is not None  # a password held
    token, now = new_token(), int(time.time())
    with server.database.write() as session:
        session.add(Token(digest=digest(token), user_id=user.id, expires=now + seconds))
        audit.record(session, f"user {user.name}", "login", user.name)
    return token, now + seconds


@router.post("/logout")
def logout(caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """End the token that this request carries."""
    with server.database.write() as session:
        held = session.get(Token, caller.token)
        if held is not None:
            session.delete(held)
    return {}


@router.get("/whoami")
def whoami(caller: TheCaller) -> dict[str, Any]:
    return {"user": caller.user, "admin": caller.admin}


@router.get("/users")
def list_users(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        rows = session.scalars(select(User).order_by(User.name))
        return {"users": [{"name": row.name, "admin": row.admin, "created": row.created} for row in rows]}


@router.post("/users", status_code=201)
def create_user(body: NewUser, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    name = slug(body.name, "a user")
    if not MIN_PASSWORD <= len(body.password) <= MAX_PASSWORD:
        raise BadInputError(f"A password here has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
    hashed = password_hash(body.password)
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        if session.scalar(select(User.id).where(User.name == name)) is not None:
            raise ConflictError(f"There is a user '{name}' already.", safe="Nothing was changed.")
        session.add(User(name=name, admin=body.admin, password=hashed, created=int(time.time())))
        audit.record(session, caller.actor, "create user", f"{name}{', administrator' if body.admin else ''}")
        return once.keep(session, {})
