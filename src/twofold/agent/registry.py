"""The workspaces on this device, whole or broken, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twofold.agent.eyes import Sight
from twofold.agent.receipts import Receipts
from twofold.agent.rest import Rest
from twofold.agent.rooms import Rooms
from twofold.agent.store import Store
from twofold.agent.supply import Supply
from twofold.agent.workspace import Workspace
from twofold.model.errors import NotFoundError
from twofold.platform.dirs import Dirs

Tell = Callable[[Mapping[str, Any]], None]


class Registry:
    def __init__(
        self, dirs: Dirs, rooms: Rooms, tell: Tell, sight: Callable[[str], Sight] = lambda name: Sight.SEEN
    ) -> None:
        self.dirs, self.rooms = dirs, rooms
        self.store = Store(dirs.state)
        self.receipts = Receipts(dirs.state)
        self._tell, self._sight = tell, sight
        self._all: dict[str, Workspace] = {}
        self.supply = Supply(dirs.cache, rooms, self.store, self.all)
        self.rest = Rest(self.all)

    def load(self) -> None:
        """Everything in the state directory. Broken workspaces are in the list too."""
        for name in self.store.names():
            ws = self.make(name)
            ws.load()
            self.add(ws)

    def make(self, name: str) -> Workspace:
        return Workspace(name, self.store, self.rooms, self.dirs, self._tell, self.supply, self._sight)

    def add(self, ws: Workspace) -> None:
        self._all[ws.name] = ws
        ws.tell()

    def drop(self, ws: Workspace) -> None:
        self._all.pop(ws.name, None)
        # Work that waits for its turn finds that it came too late.
        ws.wrong = NotFoundError(f"{ws.title} is not on this device any more.", next="See what there is:  twofold list")
        self._tell({"event": "removed", "workspace": ws.name})

    def all(self) -> list[Workspace]:
        return sorted(self._all.values(), key=lambda ws: (ws.record.key or 10, ws.name))

    def find(self, name: str) -> Workspace | None:
        return self._all.get(name)

    def get(self, untrusted_name: str) -> Workspace:
        ws = self._all.get(untrusted_name)
        if ws is None:
            raise NotFoundError(
                f"There is no workspace {untrusted_name[:40]!r} on this device.",
                next="See what there is:  twofold list   or bring it here:  twofold checkout NAME",
            )
        return ws
