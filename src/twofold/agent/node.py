"""A node: this same agent in the data centre, with a seat for each user whose workspaces are opened here.

A seat is an agent within this process: it is enrolled for its user, signs with a key of its own, and has its own folder of
workspaces, so that two users' leases, names and disks never meet. Wrapped keys are the node's: one key, which devices wrap for.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.agent.rooms import Rooms
from twofold.engine.seam import Engine
from twofold.model.errors import BadInputError, TwofoldError
from twofold.model.names import slug
from twofold.platform.dirs import Dirs, private
from twofold.trust.https import Invitation
from twofold.vault.seam import Vault

if TYPE_CHECKING:
    from twofold.agent.daemon import Agent
    from twofold.agent.remote import Command

log = logging.getLogger(__name__)
FOLDER = "seats"
_AGAIN, _END = 5.0, 70.0


@dataclass(frozen=True)
class SeatDirs(Dirs):
    """A seat's folders. Two users' workspaces of one name have runtime folders, and shares of the machine, of their own."""

    user: str = ""

    def workspace_runtime(self, name: str) -> Path:
        return self.runtime / hashlib.sha256(f"{self.user}/{name}".encode()).hexdigest()[:12]


class SeatRooms(Rooms):
    """A seat's identity is its own; what it runs on, and the key that keys are wrapped for, are the node's."""

    def __init__(self, dirs: SeatDirs, node: Dirs) -> None:
        super().__init__(dirs)
        self._node = node
        self._anchors = dirs.state / "anchors"

    @cached_property
    def engine(self) -> Engine:
        from twofold.engine.hosted import HostedEngine

        return HostedEngine(self._node.cache, self.arch, screens=True)

    @cached_property
    def vault(self) -> Vault:
        from twofold.vault.store import SealedVault

        return SealedVault(self._node.state / "device", self._anchors, self._elsewhere)


class Node:
    """The seats of one node. `begin` takes up those that are there; `seat` makes another."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._seats: dict[str, asyncio.Task[None]] = {}
        self._agents: dict[str, Agent] = {}

    def begin(self) -> None:
        root = self._agent.dirs.state / FOLDER
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            try:
                user = slug(folder.name, "a user")
            except BadInputError:
                continue  # not ours
            if (folder / "device" / "enrolment.json").exists():
                self._run(user)

    async def seat(self, command: Command) -> str:
        """Make the seat that the server asks for, once or again; the words are the receipt."""
        remote = await asyncio.to_thread(self._agent.rooms.remote)
        asked = await asyncio.to_thread(remote.call, "POST", "device/seats", {"command": command.number})
        user, code = slug(str(asked.get("user")), "a user"), str(asked.get("code"))
        rooms, held = self._rooms(user), remote.enrolment
        url = Invitation(held.place, code, hashlib.sha256(held.authority).hexdigest(), remote.anchor()).url
        await self._end(user)
        try:
            await asyncio.to_thread(rooms.enrol, url, held.name)
        finally:
            self._run(user)
        return f"{user} has a seat here."

    def _dirs(self, user: str) -> SeatDirs:
        base, tag = self._agent.dirs, hashlib.sha256(user.encode()).hexdigest()[:8]
        private(base.state / FOLDER)
        private(base.cache / FOLDER)
        places = (base.state / FOLDER / user, base.cache / FOLDER / user, base.runtime / f"s{tag}")
        for place in places:
            private(place)
        return SeatDirs(*places, user)

    def _rooms(self, user: str) -> SeatRooms:
        dirs = self._dirs(user)
        private(dirs.state / "device")
        return SeatRooms(dirs, self._agent.dirs)

    def _run(self, user: str) -> None:
        if user not in self._seats:
            self._seats[user] = asyncio.get_running_loop().create_task(self._serve(user), name=f"seat {user}")

    async def _serve(self, user: str) -> None:
        """One seat, begun again whatever ends it."""
        from twofold.agent.daemon import Agent
        from twofold.agent.node_screen import Screens

        while user in self._seats:
            seat = self._agents[user] = Agent(self._dirs(user), self._rooms(user))
            seat.extra(Screens(seat.registry).run)
            try:
                await seat.run(signals=False)
            except TwofoldError as failed:
                log.warning("a seat ended: %s", failed.code)
            except Exception:  # one user's seat must not end the others'
                log.exception("a seat failed")
            if user in self._seats:
                await asyncio.sleep(_AGAIN)

    async def _end(self, user: str) -> None:
        task, seat = self._seats.pop(user, None), self._agents.pop(user, None)
        if task is None:
            return
        if seat is not None:
            seat.end()
        await asyncio.wait({task}, timeout=_END)
        task.cancel()
        await asyncio.wait({task})

    async def close(self) -> None:
        """End the seats; what runs in them goes on, for the next agent."""
        if self._seats:
            await asyncio.gather(*map(self._end, list(self._seats)))
