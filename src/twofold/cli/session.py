"""An administrator's session with a server: log in, log out, who am I."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from twofold.cli import out
from twofold.cli.out import Form

if TYPE_CHECKING:
    from twofold.server.client import Admin

_SCHEMA = "twofold-session-1"


def login(
    url: Annotated[str, typer.Argument(help="The server: https://HOST:PORT/")],
    user: Annotated[str, typer.Option("--user", prompt=False, help="Your name on the server.")] = "admin",
    pin: Annotated[
        str, typer.Option("--pin", help="The server's fingerprint, as `twofold server init` printed it.")
    ] = "",
) -> None:
    """Log in as an administrator. The password is asked for, or read from standard input where that is no terminal."""
    from twofold.model.canonical import canonical
    from twofold.server.client import Admin
    from twofold.trust.keys import write_private

    server = Admin(url, pin or known_pin(url))
    token = server.login(user, password("Password"))
    write_private(_path(), canonical({"schema": _SCHEMA, "url": url, "pin": server.pin, "token": token}))
    out.say(f"Logged in at {server.place.origin} as {user}.")


def logout() -> None:
    """End the session, here and on the server."""
    with admin() as server:
        server.logout()
    _path().unlink(missing_ok=True)
    out.say("Logged out.")


def whoami(output: out.Output = Form.TABLE) -> None:
    """Who is logged in, and where."""
    with admin() as server:
        found = server.whoami() | {"server": server.place.origin}
    out.fields(output, "whoami", found)


@contextlib.contextmanager
def admin() -> Iterator[Admin]:
    """The server as the administrator who has logged in.

    Raises:
        RefusedError: nobody has.
    """
    from twofold.model.errors import DamagedError, RefusedError
    from twofold.server.client import Admin

    try:
        held = json.loads(_path().read_bytes())
        if held["schema"] != _SCHEMA:
            raise ValueError("another schema")
        server = Admin(str(held["url"]), str(held["pin"]), str(held["token"]))
    except FileNotFoundError as none:
        raise RefusedError("You are not logged in.", next="twofold login https://HOST:PORT/ --pin PIN") from none
    except (ValueError, KeyError, TypeError) as off:
        raise DamagedError("The saved session cannot be read.", next="Log in again:  twofold login URL") from off
    try:
        yield server
    finally:
        server.close()


def password(asked: str, *, confirm: bool = False) -> str:
    """Ask on the terminal without showing it, or read one line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt(asked, hide_input=True, confirmation_prompt=confirm, err=True))
    return sys.stdin.readline().rstrip("\n")


def known_pin(url: str) -> str:
    """The pin of a former login at the same place, or of the server whose folder is on this machine."""
    from twofold.model.errors import UsageError
    from twofold.server.client import saved_pin
    from twofold.trust.https import place

    try:
        held = json.loads(_path().read_bytes())
        if place(held["url"]) == place(url):
            return str(held["pin"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no former login; the server may be on this machine
    from twofold.cli.server import default_home

    try:
        return saved_pin(default_home())
    except OSError as unknown:
        raise UsageError(
            "The server's fingerprint is needed the first time.",
            safe="Nothing was sent.",
            next="Give it with --pin; `twofold server init` printed it.",
        ) from unknown


def _path() -> Path:
    from twofold.platform.dirs import private

    root = os.environ.get("TWOFOLD_HOME")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "twofold"
    return private(Path(root) / "config" if root else config) / "session.json"
