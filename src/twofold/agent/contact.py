"""Contact with the server: this device says how its workspaces are, hears what leases, rules and administrators want, and sends
what is due."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from twofold.agent import epochs, rights
from twofold.agent.operations import AT_ONCE, TRANSFER, Operation, Operations
from twofold.agent.outcomes import outcomes
from twofold.agent.registry import Registry
from twofold.agent.rooms import give_back
from twofold.agent.store import LEASE, as_json
from twofold.agent.workspace import Workspace
from twofold.model.canonical import canonical
from twofold.model.errors import NotFoundError, TimedOutError, TwofoldError, UnreachableError
from twofold.model.workspace import Custody
from twofold.platform.clock import boottime
from twofold.platform.network import metered

if TYPE_CHECKING:
    from twofold.agent.remote import Beat, Command

log = logging.getLogger(__name__)
WAIT = 25  # seconds that the server may take to say that there is news
_PACE, _AGAIN = 1.0, 5.0
_VERBS = {"backup": "replicate", "checkin": "check-in", "discard": "check-in"}
Seat = Callable[["Command"], Awaitable[str]]  # what a node does when the server asks for a user's seat
_HELD = (Custody.CHECKED_OUT, Custody.CHECKING_IN)


class Contact:
    """`soon` asks for a heartbeat now."""

    def __init__(
        self, registry: Registry, operations: Operations, soon: Callable[[], None], seat: Seat | None = None
    ) -> None:
        self._registry, self._operations, self._soon, self._seat = registry, operations, soon, seat
        self._vouched: object = None
        self._told_starts: set[str] = set()
        self._doing: set[int] = set()
        self._renewing: set[str] = set()
        self._receipts: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._since = 0
        self._connected = threading.Event()

    @property
    def wanted(self) -> bool:
        """Whether the server is to hear from this device, also without a workspace: a receipt may be due."""
        return self._registry.rooms.enrolled()

    async def beat(self) -> int:
        """Fetch this device's leases as they are now; one that is missing was taken back. Returns the time, by the server's word.

        Raises:
            TwofoldError: there was no contact.
        """
        # Those that were here before we asked: a check-out that ends meanwhile is not in this answer.
        here = [ws for ws in self._registry.all() if ws.wrong is None and ws.record.custody in _HELD and ws.lease]
        told, receipts, sent = [self._told(ws) for ws in here], self._receipts[:64], boottime()
        try:
            beat = await asyncio.to_thread(lambda: self._registry.rooms.remote().heartbeat(told, receipts))
        except TwofoldError:
            self._connected.clear()
            raise
        del self._receipts[: len(receipts)]
        self._doing -= {each["command"] for each in receipts}
        await self._hold(here, beat)
        await self._give_back(beat)
        for command in beat.commands:
            if command.number not in self._doing:
                self._doing.add(command.number)
                self._go(self._obey(command))
        await self._tell_starts()
        await self._send_due()
        await self._vouch()
        if beat.time:
            self._since = beat.time
            self._connected.set()
        signed = max((each.lease.issued for each in beat.leases), default=beat.time)
        return rights.since(signed, sent) if signed else int(time.time())

    async def _hold(self, here: list[Workspace], beat: Beat) -> None:
        held = {each.lease.workspace: each for each in beat.leases}
        for ws in here:
            if ws.lease is None or self._registry.find(ws.name) is not ws or ws.record.leaving:
                continue
            fresh = held.get(ws.name)
            if fresh is None or fresh.lease.token < ws.lease.token:
                if not ws.record.taken:
                    ws.note(taken=True)
                    if ws.machine is None:  # else it is suspended, and then that is said
                        ws.fail(rights.taken(ws.lease))
                continue
            if fresh.lease != ws.lease:
                try:
                    await asyncio.to_thread(ws.store.write, ws.name, LEASE, canonical(fresh.document))
                except NotFoundError:
                    continue  # it is being removed just now
                ws.lease = fresh.lease
                ws.notices.follow()
                await ws.renew()
            if ws.record.taken:
                ws.note(taken=False, error=None)
            if epochs.due(ws) and ws.name not in self._renewing:
                self._renewing.add(ws.name)
                self._go(self._begin_epoch(ws))

    async def _begin_epoch(self, ws: Workspace) -> None:
        try:
            async with self._operations.turn(ws.name):
                await epochs.begin(ws)
        except TwofoldError as failed:
            log.warning("no new key: %s", failed, extra={"workspace": ws.name})
        finally:
            self._renewing.discard(ws.name)

    async def _give_back(self, beat: Beat) -> None:
        """A lease of what is not here: it was removed, or its check-out undone, while the server could not be told."""
        busy = {each.workspace for each in self._operations.all() if not each.over}
        for name in (each.lease.workspace for each in beat.leases):
            if name in busy or self._registry.find(name) is not None:
                continue
            async with self._operations.turn(name):  # a check-out that is asked for now waits, and takes it anew
                log.info("giving back the lease of what is not here", extra={"workspace": name})
                await give_back(self._registry.rooms, name)

    def _told(self, ws: Workspace) -> dict[str, Any]:
        """docs/protocol.md, *Heartbeat*: how one workspace is. By its lease a server that was restored from a backup takes this
        device back as the holder."""
        assert ws.lease is not None
        moving = next((op for op in self._operations.under_way(ws.name, TRANSFER) if op.verb in _VERBS), None)
        told: dict[str, Any] = {
            "workspace": ws.name,
            "token": ws.lease.token,
            "run": ws.run,
            "verified": ws.record.verified,
            "version": ws.image.version if ws.image is not None else 0,
            "transfer": _transfer(moving),
        }
        with suppress(TwofoldError):
            told["lease"] = as_json(ws.store.read(ws.name, LEASE), "The lease")
        return told

    async def _obey(self, command: Command) -> None:
        from twofold.agent.orders import obey

        try:
            if command.verb == "seat" and self._seat is not None:
                result, detail = "done", await self._seat(command)
            else:
                result, detail = "done", await obey(self._registry, self._operations, command)
        except (UnreachableError, TimedOutError):
            self._doing.discard(command.number)  # it is given out again, soon where only the vault process had gone
            asyncio.get_running_loop().call_later(_AGAIN, self._soon)
            return
        except TwofoldError as failed:
            result, detail = "failed", "\n".join((failed.happened, failed.safe, failed.next))
        log.info("the company asked for %s: %s", command.verb, result, extra={"workspace": command.workspace})
        self._receipts.append({"command": command.number, "result": result, "detail": detail[:2000]})
        self._soon()

    def begin(self) -> None:
        """Finish what a former agent was in the middle of, and listen from now on."""
        self._operations.restore(self._goes_on)
        for ws in self._registry.all():
            self._finish(ws)
        self._soon()  # a former agent may have left the server in doubt
        threading.Thread(target=self._listen, args=(asyncio.get_running_loop(),), daemon=True, name="listen").start()

    def _goes_on(self, operation: Operation) -> bool:
        """Whether what a former agent was doing is taken up again at the next contact."""
        ws = self._registry.find(operation.workspace)
        if ws is None or ws.wrong is not None:
            return False
        record = ws.record
        return {
            "backup": bool(record.backing_up),
            "checkin": bool(record.leaving) or record.custody is Custody.CHECKING_IN,
            "upgrade": bool(record.upgrade_to) and not record.change,
        }.get(operation.verb, False)

    def _finish(self, ws: Workspace) -> bool:
        """Whether the workspace is on its way from this device; nobody may hold that up."""
        going = bool(ws.record.leaving) or (ws.wrong is None and ws.record.custody is Custody.CHECKING_IN)
        if going and not any(self._operations.under_way(ws.name, lane) for lane in (TRANSFER, AT_ONCE)):
            from twofold.agent.leaving import go_on

            turn = self._operations.turn(ws.name)
            self._operations.submit("checkin", ws.name, {}, lambda op: go_on(self._registry, ws, op, turn), TRANSFER)
        return going

    async def _send_due(self) -> None:
        """After contact: what was cut off goes on, what the policy wants now begins."""
        from twofold.agent import backup

        if not await asyncio.to_thread(lambda: self._registry.rooms.remote().speaks()):
            return
        for ws in self._registry.all():
            if self._finish(ws) or ws.wrong is not None or ws.record.custody is not Custody.CHECKED_OUT:
                continue
            if ws.code() == "locked":  # nobody can open it now; it is backed up while it is used
                continue
            now = rights.now(ws.record)
            if not ws.record.backup_at:
                ws.note(backup_at=now)  # the first one is due as long after the check-out as each is after the former
            if self._operations.under_way(ws.name, TRANSFER):
                continue
            turn, why, left_only = self._operations.turn(ws.name), ws.record.backing_up, True
            if not why:
                if not backup.due(ws, now, metered=False) or not backup.due(
                    ws, now, metered=await asyncio.to_thread(metered)
                ):
                    continue
                why, left_only = backup.SCHEDULE, False
            work = partial(backup.wanted, ws, turn=turn, why=why, left_only=left_only)
            self._operations.submit("backup", ws.name, {"why": why}, work, TRANSFER)

    async def _vouch(self) -> None:
        """Once for each enrolment: say which wrapping key is this machine's, in a way that others can check."""
        rooms = self._registry.rooms
        remote = await asyncio.to_thread(rooms.remote)
        if self._vouched is not remote:
            try:
                await asyncio.to_thread(rooms.vouch)
            except TwofoldError as no:
                log.info("the server did not take what vouches for this machine's key: %s", no.code)
            self._vouched = remote

    async def _tell_starts(self) -> None:
        remote = await asyncio.to_thread(self._registry.rooms.remote)
        for outcome in list(outcomes(self._operations.all(), self._registry.find, self._told_starts, time.time())):
            try:
                await asyncio.to_thread(remote.started, outcome.image, outcome.version, good=outcome.good)
            except (UnreachableError, TimedOutError):
                return  # with the next heartbeat
            except TwofoldError as no:
                log.info("the server did not take how a start went: %s", no.code)
            self._told_starts.add(outcome.operation)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.error("a request of the company failed", exc_info=failed)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """While there is contact, ask for a heartbeat as soon as the server has news. A thread that ends with the process: nobody
        waits for its answer."""
        with suppress(RuntimeError):  # the loop has ended
            self._hear(loop)

    def _hear(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._connected.wait()
            try:
                if self._registry.rooms.remote().wait(WAIT, self._since):
                    loop.call_soon_threadsafe(self._soon)
            except TwofoldError:
                self._connected.clear()
                time.sleep(_AGAIN)
                # Is it away? Where it is not, a heartbeat connects again.
                loop.call_soon_threadsafe(self._soon)
            time.sleep(_PACE)


def _transfer(moving: Operation | None) -> dict[str, Any] | None:
    if moving is None:
        return None
    state = moving.state if moving.state in ("running", "paused") else "waiting"
    return {"verb": _VERBS[moving.verb], "state": state, "done": moving.done, "total": moving.total}
