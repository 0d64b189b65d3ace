"""One workspace under supervision: its state, its machine, vault and guest, and what happens when one of them ends."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from twofold.agent import base as stand
from twofold.agent import change, doze, hardware, rights
from twofold.agent.description import describe
from twofold.agent.eyes import Sight
from twofold.agent.focus import FOCUS, Focus
from twofold.agent.guest import Guest
from twofold.agent.network import Outside
from twofold.agent.notices import EVENTS, Notices
from twofold.agent.parts import open_manifest
from twofold.agent.rooms import Rooms
from twofold.agent.store import IMAGE, KEY, LEASE, VAULT, Record, Store, as_json
from twofold.agent.supply import Stock, Supply
from twofold.engine.seam import Machine
from twofold.model.errors import (
    ConflictError,
    DamagedError,
    NoRoomError,
    NotFoundError,
    RefusedError,
    TwofoldError,
    from_wire,
)
from twofold.model.image import ImageVersion
from twofold.model.lease import Lease
from twofold.model.workspace import CUSTODY_MOVES, RUN_MOVES, Custody, RunState, move
from twofold.platform.dirs import Dirs, private
from twofold.vault.seam import Keys, OpenVault, Term

log = logging.getLogger(__name__)

Tell = Callable[[Mapping[str, Any]], None]
# While one of these lasts an operation holds the machine, and deals with its end itself.
_HELD = frozenset({RunState.STARTING, RunState.RESUMING, RunState.SUSPENDING, RunState.STOPPING})


class Workspace:
    """State changes only in `become` and `hold`; both check the tables, write the state file and tell the watchers."""

    def __init__(
        self,
        name: str,
        store: Store,
        rooms: Rooms,
        dirs: Dirs,
        tell: Tell,
        supply: Supply,
        sight: Callable[[str], Sight] = lambda name: Sight.SEEN,
    ) -> None:
        self.name, self.store, self.rooms = name, store, rooms
        self._dirs, self._tell, self._supply = dirs, tell, supply
        self.record = Record()
        self.lease: Lease | None = None
        self.image: ImageVersion | None = None
        self.base_digest = ""  # of the index that its disks stand on; empty where the vault holds everything itself
        self.stock: Stock | None = None
        self.rest: Stock | None = None  # of its own sealed files, while some are with the server
        self.wrong: TwofoldError | None = None
        self._readable = True
        self.machine: Machine | None = None
        self.vault: OpenVault | None = None
        self.guest: Guest | None = None
        self.ended: asyncio.Future[str] | None = None
        self._vault_died = False
        self._killed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._pidfd = -1
        self.opened: Keys | None = None  # those under an unlock code, while it is open
        self.one_code = asyncio.Lock()
        self.notices = Notices(name, lambda: self.lease, lambda: self.guest, tell, self._go)
        self.focus = Focus(name, lambda: self.guest, tell, self._go)
        self.doze = doze.Dozing(self, sight, self._go)
        self.network = Outside(name, lambda: self.lease, lambda: self.runtime, self._go)

    def load(self) -> None:
        """Read and verify the workspace's files; one that can't be read is broken, listed, and says so."""
        self.wrong, self._readable = None, False
        try:
            self.record = self.store.record(self.name)
            self._readable = True
            if self.record.custody is Custody.CHECKING_OUT:
                return
            if self.record.change == change.SWITCH:
                self._switch()
            self.lease = self.rooms.lease(self.store.read(self.name, LEASE))
            self._require_known_form()
            description = self.store.read(self.name, IMAGE)
            self.image, self.base_digest = open_manifest(self.rooms.identity.verify_key, description)
            if self.lease.workspace != self.name:
                raise DamagedError(f"The lease in {self.name} belongs to another workspace.")
            if not (self.folder / VAULT).is_dir():
                raise DamagedError(f"The sealed store of {self.name} is gone from this disk.")
            found = self.rooms.vault.afar(self.folder / VAULT)
            self.rest = None if found is None else Stock(*found)
        except TwofoldError as wrong:
            log.warning("workspace broken", extra={"workspace": self.name, "error": wrong.code})
            self.wrong = wrong if wrong.next else type(wrong)(
                wrong.happened, safe=wrong.safe or "Nothing was removed.",
                next=f"Restore the file from a back-up of this computer, or remove the workspace:  twofold remove {self.name}",
            )  # fmt: skip

    def _switch(self) -> None:
        """Finish what the start that changed its version was doing, or a former agent."""
        change.settle(self.folder, self.record)
        image, _ = open_manifest(self.rooms.identity.verify_key, self.store.read(self.name, IMAGE))
        self.record = dataclasses.replace(hardware.settled(self.record, image), change="")
        self.store.save(self.name, self.record)

    @property
    def folder(self) -> Path:
        return self.store.folder(self.name)

    @property
    def runtime(self) -> Path:
        return private(self._dirs.workspace_runtime(self.name))

    def _require_known_form(self) -> None:
        if not self.stored_keys().wrapped.startswith(b"{"):
            raise DamagedError(
                f"{self.name} was brought here by an early build of Twofold, or its key file is damaged: it can't be opened.",
                safe="Nothing of it was changed.",
                next=f"Restore its key file, or have the workspace anew:  twofold remove {self.name}",
            )

    def open_vault(self, *, leased: bool = True) -> OpenVault:
        """Start the process of its disks; `leased`: it ends by itself with the lease. Blocks. Raises as
        `twofold.vault.seam.Vault.open`."""
        base = stand.of(self, self._supply.cache)
        term = self.term() if leased else None
        return self.rooms.vault.open(self.folder / VAULT, self.keys(), self.runtime, base, term)

    def term(self) -> Term | None:
        """How long the process of its disks may hold the keys, as the server signed it."""
        if self.lease is None:
            return None
        document = as_json(self.store.read(self.name, LEASE), "The lease")
        return Term(document, self.rooms.server(), rights.now(self.record))

    async def renew(self) -> None:
        """The lease was signed afresh: the process of its disks goes on with it."""
        vault = self.vault
        if vault is None:
            return
        try:
            term = await asyncio.to_thread(self.term)
            if term is not None:
                await asyncio.to_thread(vault.renew, term)
        except TwofoldError as failed:  # where the process has ended, that is looked after elsewhere
            log.warning("the lease was not renewed: %s", failed, extra={"workspace": self.name})

    def stored_keys(self) -> Keys:
        """Its data keys, as they lie on the disk: wrapped, perhaps under a code too. Raises: DamagedError: they are gone."""
        return Keys(self.name, self.store.read(self.name, KEY))

    def keys(self) -> Keys:
        """Its wrapped data keys, as the process of its disks takes them.

        Raises:
            DamagedError: they are gone. RefusedError: they are under a code that has not been given.
        """
        stored = self.stored_keys()
        if not stored.locked:
            return stored
        if self.opened is None:
            raise RefusedError(
                f"{self.title} opens with your unlock code.",
                safe="Nothing was changed.",
                next=f"Give it:  twofold unlock {self.name}",
            )
        return self.opened

    def shut(self) -> str:
        """Why it may not run, in a word; empty where it may."""
        if self.lease is None or self.wrong is not None:
            return ""
        wants = self.lease.policy.unlock and self.code() == ""  # one has to be chosen
        return rights.shut(self.lease, self.record) or ("code" if wants or self.code() == "locked" else "")

    def code(self) -> str:
        """`locked` or `open` where it has an unlock code, else empty."""
        try:
            locked = self.stored_keys().locked
        except TwofoldError:
            return ""
        return ("locked" if self.opened is None else "open") if locked else ""

    @property
    def run(self) -> RunState:
        return RunState.BROKEN if self.wrong is not None else self.record.run

    @property
    def title(self) -> str:
        return self.lease.title if self.lease else self.name

    def whole(self) -> tuple[Lease, ImageVersion]:
        """Raises: the error that keeps this workspace from running."""
        if self.wrong is not None:
            raise self.wrong
        if self.lease is None or self.image is None:
            raise ConflictError(f"{self.name} is still being checked out.", next="See how far:  twofold jobs list")
        return self.lease, self.image

    def become(self, then: RunState, **changes: Any) -> None:
        """Move the run state; `changes` are other fields of the record, written in the same file."""
        if then is not self.record.run:
            move(RUN_MOVES, self.record.run, then, self.title)
            self.doze.over()
        self.note(run=then, **changes)

    def hold(self, then: Custody, **changes: Any) -> None:
        move(CUSTODY_MOVES, self.record.custody, then, self.title)
        self.keep(custody=then, **changes)

    def note(self, **changes: Any) -> None:
        """Change the record: durable where there is room, then told; nothing where it has left this device meanwhile."""
        try:
            self.keep(**changes)
        except NotFoundError:
            log.info("it has left already", extra={"workspace": self.name})
        except NoRoomError as full:
            # A full disk must not keep a machine from being paused or let go; the state is read off the processes again.
            log.warning("the state file was not written", extra={"workspace": self.name, "error": full.code})
            self.record = dataclasses.replace(self.record, **changes)
            self.tell()

    def keep(self, **changes: Any) -> None:
        """Change the record: durable, then told. Raises: NoRoomError: it is as it was. NotFoundError: it has left."""
        changed = dataclasses.replace(self.record, **changes)
        # A file that can't be read is left for a person or a newer version: what we don't know must not replace it.
        if self._readable:
            self.store.save(self.name, changed)
        self.record = changed
        self.tell()

    def stocked(self, stock: Stock) -> None:
        """So much of its image is on this machine."""
        if stock != self.stock:
            self.stock = stock
            self.tell()

    def awaited(self, rest: Stock | None) -> None:
        """So much of its own is on this machine; None: all."""
        if rest != self.rest:
            self.rest = rest
            self.tell()

    def fail(self, error: TwofoldError | None) -> None:
        self.note(error=None if error is None else error.to_wire())

    def tell(self) -> None:
        self._tell({"event": "workspace"} | self.to_wire())

    def to_wire(self) -> dict[str, Any]:
        return describe(self)

    # What lives beside us

    def supplied(self, vault: OpenVault) -> None:
        """From now on what its disks wait for is brought."""
        self._supply.serve(self, vault)

    def unsupplied(self) -> None:
        self._supply.end(self)

    def hold_vault(self, vault: OpenVault) -> None:
        """Watch the vault's process: when it goes, the machine has lost its disks."""
        self.vault, self._vault_died = vault, False
        try:
            self._pidfd = os.pidfd_open(vault.pid)
        except ProcessLookupError:
            asyncio.get_running_loop().call_soon(self._vault_gone)
            return
        asyncio.get_running_loop().add_reader(self._pidfd, self._vault_gone)
        self.supplied(vault)

    async def close_vault(self) -> None:
        """Flush and close; what is on the disk is then whole. Idempotent."""
        vault, self.vault = self.vault, None
        self._unwatch_vault()
        if vault is not None:
            await asyncio.to_thread(vault.close)

    def _unwatch_vault(self) -> None:
        self.unsupplied()
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _vault_gone(self) -> None:
        self._unwatch_vault()
        if self.vault is None:
            return
        log.error("vault process ended", extra={"workspace": self.name})
        self._go(self._replace_vault(self.vault))

    async def _replace_vault(self, former: OpenVault) -> None:
        """The machine waits for its disks a while: open them anew, or else end it."""
        self.vault = None
        try:
            await asyncio.to_thread(former.close)
            if self.machine is None:
                return
            fresh = await asyncio.to_thread(self.open_vault)
        except TwofoldError as failed:
            log.warning("the vault does not open again", extra={"workspace": self.name, "error": failed.code})
            self._vault_died = True
            if self.machine is not None:
                await self.machine.kill()
            return
        self.hold_vault(fresh)
        if not self.running():  # it was ended meanwhile, and nobody else will close what was opened for it
            await self.close_vault()

    def running(self) -> bool:
        return self.machine is not None

    def hold_machine(self, machine: Machine) -> None:
        """Watch the machine, and talk to its guest where it has our agent."""
        self.machine, self._killed = machine, False
        self.ended = asyncio.get_running_loop().create_future()
        self._go(self._wait(machine, self.ended))
        if self.image is not None and self.image.has_agent:
            self.guest = Guest(machine.channel, self._guest_says, self.doze.wake)
            self.guest.start()

    async def kill_machine(self) -> None:
        """End the machine on purpose. Idempotent."""
        machine, ended = self.machine, self.ended
        if machine is None:
            return
        self._killed = True
        await machine.kill()
        if ended is not None:
            await asyncio.wait({ended}, timeout=10)
        await self._drop_machine(machine)
        await self.network.close()

    async def _wait(self, machine: Machine, ended: asyncio.Future[str]) -> None:
        why = await machine.wait()
        if not ended.done():
            ended.set_result(why)
        log.info("machine ended: %s", why, extra={"workspace": self.name})
        if self.machine is machine and self.record.run not in _HELD and not self._killed:
            await self.came_down(why)

    async def came_down(self, why: str) -> None:
        """The machine ended without our doing: close its vault, and say what happened."""
        if self.machine is not None:
            await self._drop_machine(self.machine)
        await self.network.close()
        self.opened = None
        error = self._why(why)
        try:
            await self.close_vault()
        except TwofoldError as unclean:
            error = error or unclean
        self.become(RunState.OFF, error=None if error is None else error.to_wire(), memory_stored=False)

    def _why(self, why: str) -> TwofoldError | None:
        if self._vault_died:
            if self.lease is not None and (refused := rights.refusal(self.lease, self.record)) is not None:
                return from_wire(refused)
            return TwofoldError(
                f"The process that keeps the disks of {self.title} ended, so the machine was stopped.",
                safe="Everything the system had written out is on this disk, sealed; what was only in its memory is lost.",
                next=f"Start it again:  twofold start {self.name}",
            )
        if why.startswith("guest"):
            return None
        return TwofoldError(
            f"The machine of {self.title} ended by itself ({why:.200}).",
            safe="Its disks are safe, as after a power cut; what was only in its memory is lost.",
            next=f"Start it again:  twofold start {self.name}",
        )

    async def _drop_machine(self, machine: Machine) -> None:
        guest, self.guest, self.machine = self.guest, None, None
        self.notices.follow()
        self.focus.follow()
        self.doze.over()
        if guest is not None:
            await guest.close()
        await machine.close()

    def _guest_says(self, event: Mapping[str, Any]) -> None:
        if event.get("event") == "state":
            self.notices.follow()
            self.focus.follow()
            self.doze.follow()
            self.tell()
        elif event.get("event") in doze.EVENTS:
            self.doze.heard(event)
        elif event.get("event") in EVENTS:
            self.notices.heard(event)
        elif event.get("event") == FOCUS:
            self.focus.heard(event)
        else:
            self._tell({**event, "workspace": self.name})

    def _go(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.error("supervision failed", exc_info=failed, extra={"workspace": self.name})

    async def let_go(self) -> None:
        """The agent ends; the machine and its vault go on, for the next agent to take over."""
        await self.doze.wake()
        self._unwatch_vault()
        self.network.let_go()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        if self.machine is not None:
            await self._drop_machine(self.machine)
        self.vault = None
