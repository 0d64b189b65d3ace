"""What the switcher needs of the agent (docs/protocol.md, chapter 2); `twofold.agent.client` has it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Protocol


class Agent(Protocol):
    """Calls that wait for their answers; one thread at a time."""

    def call(self, verb: str, *, deadline: float | None = None, **args: Any) -> dict[str, Any]: ...

    def display(self, workspace: str) -> socket.socket: ...

    def close(self) -> None: ...


class Events(Protocol):
    """The agent's events; `fileno` turns readable when there are some."""

    def fileno(self) -> int: ...

    def ready(self) -> list[dict[str, Any]]: ...

    def say(self, verb: str, **args: Any) -> None: ...

    def close(self) -> None: ...


class Dial(Protocol):
    """How to reach the agent at a socket."""

    def agent(self, path: Path) -> Agent: ...

    def events(self, path: Path) -> Events: ...


class Socket:
    """The agent's own socket."""

    def agent(self, path: Path) -> Agent:
        from twofold.agent.client import Client

        return Client(path)

    def events(self, path: Path) -> Events:
        from twofold.agent.client import Watch

        return Watch(path, switcher=True)
