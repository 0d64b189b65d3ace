"""What an agent does first: find what a former one left running, finish or undo what it was in the middle of."""

from __future__ import annotations

import asyncio
import logging

from twofold.agent.store import VAULT
from twofold.agent.workspace import Workspace
from twofold.engine.seam import Machine
from twofold.model.errors import TwofoldError
from twofold.model.workspace import Custody, RunState
from twofold.platform.clock import boot_id
from twofold.vault.seam import OpenVault

log = logging.getLogger(__name__)


async def take_over(ws: Workspace) -> None:
    """Bring one workspace to a state that is true. Never fails: what can't be mended is said in its error."""
    if ws.record.custody is Custody.CHECKING_OUT and ws.wrong is None:
        # A check-out never finished is undone; its chunks are in the cache, so that doing it again is quick.
        log.info("undoing a check-out that was cut off", extra={"workspace": ws.name})
        await asyncio.to_thread(ws.rooms.vault.release, ws.folder / VAULT, given_up=True)
        await asyncio.to_thread(ws.store.destroy, ws.name)
        return
    try:
        machine = await ws.rooms.engine.attach(ws.runtime)
        vault = await _vault(ws)
        await _settle(ws, machine, vault)
    except TwofoldError as failed:
        log.warning("takeover failed: %s", failed, extra={"workspace": ws.name})
        if ws.wrong is None:
            ws.wrong = failed
        ws.tell()


async def _vault(ws: Workspace) -> OpenVault | None:
    try:
        ws.stored_keys()
    except TwofoldError:
        if ws.wrong is None:
            raise
        return (
            None  # whatever still runs could never be started again: it is ended, and the rest is a person's to decide
        )
    return await asyncio.to_thread(ws.rooms.vault.attach, ws.folder / VAULT, ws.runtime)


async def _settle(ws: Workspace, machine: Machine | None, vault: OpenVault | None) -> None:
    if machine is not None and vault is not None:
        await _both(ws, machine, vault)
    elif machine is not None:
        await machine.kill()
        await machine.close()
        _down(ws, "the process that keeps its disks ended")
    elif vault is not None:
        stored = await asyncio.to_thread(vault.memory_identity) is not None
        await asyncio.to_thread(vault.close)
        if stored:
            _is(ws, RunState.SUSPENDED, memory_stored=True)
        else:
            _down(ws, "its machine ended while no agent looked after it")
    elif ws.record.memory_stored:
        _is(ws, RunState.SUSPENDED)
    elif ws.record.run in (RunState.OFF, RunState.BROKEN):
        _is(ws, RunState.OFF)
    elif ws.record.boot and ws.record.boot != boot_id():
        _down(ws, "this computer was switched off or restarted")
    else:
        _down(ws, "its machine and its disks' process ended while no agent looked after them")


async def _both(ws: Workspace, machine: Machine, vault: OpenVault) -> None:
    status = (await machine.stats()).status
    ws.hold_vault(vault)
    if status != "running" and await asyncio.to_thread(vault.memory_identity) is not None:
        # Either a suspend that was sealed and not yet ended, or a resume that had not begun: the sealed memory is the later.
        ws.hold_machine(machine)
        await ws.kill_machine()
        await ws.close_vault()
        _is(ws, RunState.SUSPENDED, memory_stored=True)
        return
    if status != "running" and ws.record.run is not RunState.PAUSED:
        await machine.resume()
        status = "running"
    log.info("took over a machine", extra={"workspace": ws.name, "pid": machine.pid})
    ws.hold_machine(machine)
    await ws.network.take_over(card=ws.record.network)
    _is(ws, RunState.RUNNING if status == "running" else RunState.PAUSED, memory_stored=False)


def _down(ws: Workspace, why: str) -> None:
    error = TwofoldError(
        f"{ws.title} was running, and {why}.",
        safe="Its disks are safe, as after a power cut; what was only in its memory is lost.",
        next=f"Start it again:  twofold start {ws.name}",
    )
    quiet = ws.record.run in (RunState.OFF, RunState.BROKEN)
    _is(ws, RunState.OFF, memory_stored=False, error=ws.record.error if quiet else error.to_wire())


def _is(ws: Workspace, run: RunState, **changes: object) -> None:
    """What was found, not a move: the table is for what we do, this is what has happened without us."""
    ws.note(run=run, **changes)
