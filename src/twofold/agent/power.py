"""Start, resume, suspend, stop and off: each an operation that stands on an exit stack and leaves a true state behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from twofold.agent import change, growth, hardware, parts, rights, unlock
from twofold.agent.operations import Operation
from twofold.agent.workspace import Workspace
from twofold.engine.seam import Machine
from twofold.model.errors import ConflictError, NoRoomError, TimedOutError, TwofoldError
from twofold.model.image import Firmware, ImageVersion
from twofold.model.machine import MemoryIdentity, Spec, misfits
from twofold.model.reach import NONE
from twofold.model.workspace import Custody, RunState
from twofold.platform import memory
from twofold.platform.clock import boot_id
from twofold.vault.seam import OpenVault

GUEST_SECONDS = 40.0  # for a clean shutdown by the guest agent
BUTTON_SECONDS = 25.0  # and then by the power button
# Left free when a workspace starts: what the guest may write before the supervisor pauses it (supervision.py).
ROOM = 256 << 20

_LIVE = (RunState.RUNNING, RunState.PAUSED)


async def start(ws: Workspace, op: Operation, *, boot: bool) -> dict[str, Any]:
    """Resume where memory is stored and fits, else boot; `boot` boots even so, and discards the memory. A new version of the
    image that does not start gives way to the former one.

    Raises:
        ConflictError: memory is stored and does not fit, in words; nothing was started, `boot` is the way on.
    """
    try:
        return await _start(ws, op, boot=boot)
    except TwofoldError as failed:
        if not change.failed(ws, failed):
            raise
        new = ws.record.version
        return await _start(ws, op, boot=True) | {"gave_way": new}


async def _start(ws: Workspace, op: Operation, *, boot: bool) -> dict[str, Any]:
    lease, image = ws.whole()
    if ws.record.run in _LIVE:
        return {"already": ws.record.run}
    if ws.record.custody is Custody.CHECKING_IN or ws.record.leaving:
        raise ConflictError(
            f"{ws.title} is on its way back to your company's server.",
            safe="All of it is there, or on this disk.",
            next="It ends by itself once the server answers; then:  twofold checkout " + ws.name,
        )
    rights.require(lease, ws.record)
    unlock.require(ws)
    _require_room(ws)
    _require_memory(ws)
    began = time.monotonic()
    if change.due(ws.record, boot=boot):
        await change.apply(ws, op)
        lease, image = ws.whole()
    if growth.due(ws.record, boot=boot):
        await growth.apply(ws, op)
    resuming = ws.record.memory_stored and not boot
    ws.become(RunState.RESUMING if resuming else RunState.STARTING, error=None)
    try:
        async with AsyncExitStack() as always, AsyncExitStack() as undo:
            op.progress("opening the sealed disks", 0, 0)
            vault = await asyncio.to_thread(ws.open_vault)
            undo.push_async_callback(asyncio.to_thread, vault.close)
            # The engine looks at the disks before the guest does.
            undo.callback(ws.unsupplied)
            ws.supplied(vault)
            # The boot files are unsealed while the rest is looked at.
            files = asyncio.ensure_future(asyncio.to_thread(_boot_files, ws, vault, image))
            always.push_async_callback(_let_go, files)
            op.check()
            resumed = await _power_on(ws, op, always, undo, vault, files, boot)
            undo.pop_all()
    except TwofoldError as failed:
        await ws.kill_machine()
        await ws.close_vault()
        ws.become(RunState.SUSPENDED if ws.record.memory_stored else RunState.OFF, error=failed.to_wire())
        raise
    except BaseException:
        ws.become(RunState.SUSPENDED if ws.record.memory_stored else RunState.OFF)
        raise
    return {"resumed": resumed, "seconds": round(time.monotonic() - began, 3)}


async def _power_on(
    ws: Workspace,
    op: Operation,
    always: AsyncExitStack,
    undo: AsyncExitStack,
    vault: OpenVault,
    files: asyncio.Future[dict[str, int]],
    boot: bool,
) -> bool:
    lease, image = ws.whole()
    engine = ws.rooms.engine
    able = await engine.capabilities()
    sound = lease.policy.sound_out or lease.policy.sound_in
    saved = None if boot else await asyncio.to_thread(vault.memory_identity)
    resuming = saved is not None
    # Memory has the card that it was launched with. What can be reached through it is not the card's to say.
    network = ws.record.network if resuming else lease.policy.network != NONE
    spec = hardware.spec(lease, image, ws.record, sound=sound, network=network)
    if saved is not None:
        _require_fit(ws, saved, hardware.identity(spec, image, engine, able, await asyncio.to_thread(vault.head)))
    elif ws.record.run is RunState.RESUMING:
        # The vault has the last word: its memory is gone, so this is a boot.
        ws.become(RunState.OFF, memory_stored=False)
        ws.become(RunState.STARTING)
    op.progress("starting the machine", 0, 0)
    memory = loaded = None
    if resuming:
        memory = engine.memory(spec)
        always.callback(os.close, memory)
        loaded = asyncio.ensure_future(asyncio.to_thread(vault.open_memory, memory, op.progress))
        always.push_async_callback(asyncio.wait, {loaded})
    undo.push_async_callback(ws.network.close)
    machine = await op.or_cancelled(_launch(ws, spec, vault, files, memory, loaded))
    # From here on it is the workspace's, so that who watches can have its screen before its first instruction.
    undo.pop_all()
    undo.push_async_callback(ws.close_vault)
    undo.push_async_callback(ws.kill_machine)
    ws.hold_vault(vault)
    ws.hold_machine(machine)
    ws.tell()
    op.commit(f"{ws.title} has started; it cannot be undone, only suspended or stopped.")
    # Memory is forgotten before the guest's first instruction, so that no moment of its life is ever lived twice.
    await asyncio.to_thread(vault.consume_memory)
    ws.note(memory_stored=False)
    await machine.resume()
    undo.pop_all()
    ws.become(
        RunState.RUNNING,
        launched_at=int(time.time()),
        accelerator=able.accelerator,
        boot=boot_id(),
        sound=sound,
        network=network,
        error=None,
    )
    if resuming and ws.guest is not None:
        ws.guest.set_time_when_up()
    return resuming


async def _let_go(opening: asyncio.Future[dict[str, int]]) -> None:
    """Close what was opened beside the rest."""
    await asyncio.wait({opening})
    if not opening.cancelled() and opening.exception() is None:
        for fd in opening.result().values():
            os.close(fd)


def _boot_files(ws: Workspace, vault: OpenVault, image: ImageVersion) -> dict[str, int]:
    """Kernel and initrd in memory files, where the image is booted by them."""
    with ExitStack() as undo:
        files = {}
        for name in hardware.BOOT_PARTS if image.firmware is Firmware.DIRECT else ():
            files[name] = parts.unseal(ws.folder / parts.FOLDER, vault, image, name)
            undo.callback(os.close, files[name])
        undo.pop_all()
    return files


def _require_fit(ws: Workspace, saved: MemoryIdentity, now: MemoryIdentity) -> None:
    reasons = misfits(saved, now)
    if reasons:
        raise ConflictError(
            f"The suspended memory of {ws.title} does not fit this machine any more: it belongs to {'; '.join(reasons)}.",
            safe="Nothing was started. The disks are safe, and so is the memory until you boot.",
            next=f"Boot instead, which gives up what was open:  twofold start {ws.name} --boot",
        )


async def _launch(
    ws: Workspace,
    spec: Spec,
    vault: OpenVault,
    files: asyncio.Future[dict[str, int]],
    memory: int | None,
    loaded: asyncio.Future[None] | None,
) -> Machine:
    """The machine, loaded and paused."""
    # A start that is cancelled must not cancel these: whatever they open is still to be closed.
    opened = await asyncio.shield(files)
    promise = None if loaded is None else asyncio.shield(loaded)
    disks = {disk.device: vault.socket for disk in spec.disks}
    network = await ws.network.open() if spec.network else None
    return await ws.rooms.engine.start(spec, disks, opened, ws.runtime, memory, promise, paused=True, network=network)


async def suspend(ws: Workspace, op: Operation) -> dict[str, Any]:
    """Seal the machine's memory beside its disks and end it. If that fails the machine goes on as before."""
    lease, _ = ws.whole()
    if ws.record.run is RunState.SUSPENDED:
        return {"already": ws.record.run}
    machine, vault = _running(ws)
    before, began = ws.record.run, time.monotonic()
    ws.become(RunState.SUSPENDING)
    try:
        stored = await _seal(ws, op, machine, vault)
    except BaseException as failed:
        await _go_on(ws, machine, before, failed)
        raise
    ws.note(memory_stored=True)
    await ws.kill_machine()
    await ws.close_vault()
    ws.opened = None
    ws.become(RunState.SUSPENDED, on_disk_verified_at=int(time.time()), error=rights.refusal(lease, ws.record))
    return {"bytes": stored, "seconds": round(time.monotonic() - began, 3)}


async def _seal(ws: Workspace, op: Operation, machine: Machine, vault: OpenVault) -> int:
    lease, image = ws.whole()
    op.progress("taking the memory", 0, 0)
    # What was launched decides what the memory belongs to; where the policy has changed since, it will not fit.
    spec = hardware.spec(lease, image, ws.record, sound=ws.record.sound, network=ws.record.network)
    able = await ws.rooms.engine.capabilities()
    memory = await machine.suspend()
    try:
        head = await asyncio.to_thread(vault.head)
        belongs = hardware.identity(spec, image, ws.rooms.engine, able, head)
        stored = await asyncio.to_thread(vault.seal_memory, belongs, memory, op.progress)
    finally:
        os.close(memory)
    try:
        op.commit("The memory is sealed already; the workspace is about to be suspended.")
        if await asyncio.to_thread(vault.memory_identity) != belongs:
            raise TwofoldError("The sealed memory did not read back as it was written.", safe="The workspace goes on.")
    except BaseException:
        await asyncio.to_thread(vault.consume_memory)
        raise
    return stored


async def _go_on(ws: Workspace, machine: Machine, before: RunState, failed: BaseException) -> None:
    """After a suspend that failed: let the guest run on, or say that it can't."""
    if ws.ended is not None and ws.ended.done():
        await ws.came_down(ws.ended.result())
        return
    if before is RunState.RUNNING:
        try:
            await machine.resume()
        except TwofoldError as stuck:
            ws.become(RunState.RUNNING)
            ws.become(RunState.PAUSED, error=stuck.to_wire())
            return
    ws.become(RunState.RUNNING)
    if before is RunState.PAUSED:
        ws.become(RunState.PAUSED)
    if isinstance(failed, TwofoldError) and failed.code != "cancelled":
        ws.fail(failed)


async def stop(ws: Workspace, op: Operation) -> dict[str, Any]:
    """A clean shutdown: by the guest's agent, then by the power button; a guest that does neither is left running."""
    ws.whole()
    if ws.record.run is RunState.OFF:
        return {"already": ws.record.run}
    if ws.record.run is RunState.SUSPENDED:
        raise ConflictError(
            f"{ws.title} is suspended; it cannot be shut down without being resumed.",
            safe="Nothing was changed.",
            next=f"Start it first:  twofold start {ws.name}   or give up what is open:  twofold off {ws.name} --yes",
        )
    machine, _ = _running(ws)
    if ws.record.run is RunState.PAUSED:
        await machine.resume()
        ws.become(RunState.RUNNING)
    ws.become(RunState.STOPPING)
    try:
        why = await _shut_down(ws, op, machine)
    except BaseException:
        if ws.ended is not None and ws.ended.done():
            await ws.came_down(ws.ended.result())
        else:
            ws.become(RunState.RUNNING)
        raise
    await ws.came_down(why)
    ws.note(on_disk_verified_at=int(time.time()))
    return {"how": why}


async def _shut_down(ws: Workspace, op: Operation, machine: Machine) -> str:
    assert ws.ended is not None
    if ws.guest is not None and ws.guest.up:
        op.progress("asking the guest to shut down", 0, 0)
        try:
            await ws.guest.call("shutdown")
        except TwofoldError:
            pass  # the power button is next
        else:
            if await _ends(op, ws.ended, GUEST_SECONDS):
                return ws.ended.result()
    op.progress("pressing the power button", 0, 0)
    await machine.power_button()
    if await _ends(op, ws.ended, BUTTON_SECONDS):
        return ws.ended.result()
    raise TimedOutError(
        f"{ws.title} did not shut down within {GUEST_SECONDS + BUTTON_SECONDS:g} seconds.",
        safe="It is still running; nothing was lost.",
        next=f"Look at its screen, or switch it off as by its power switch:  twofold off {ws.name} --yes",
    )


async def _ends(op: Operation, ended: asyncio.Future[str], seconds: float) -> bool:
    async def within() -> bool:
        await asyncio.wait({ended}, timeout=seconds)
        return ended.done()

    return await op.or_cancelled(within())


async def off(ws: Workspace, op: Operation) -> dict[str, Any]:
    """The power switch: what is only in memory, running or suspended, is gone; the disks stay as after a power cut."""
    ws.whole()
    op.commit("The power is off already.")
    if ws.record.run is RunState.SUSPENDED:
        vault = await asyncio.to_thread(ws.open_vault, leased=False)
        try:
            await asyncio.to_thread(vault.consume_memory)
        finally:
            await asyncio.to_thread(vault.close)
        ws.opened = None
        ws.become(RunState.OFF, memory_stored=False, error=None)
        return {"lost": "suspended memory"}
    if ws.machine is None:
        return {"already": ws.record.run}
    await ws.kill_machine()
    await ws.close_vault()
    ws.opened = None
    ws.become(RunState.OFF, memory_stored=False, error=None, on_disk_verified_at=int(time.time()))
    return {"lost": "memory"}


async def pause(ws: Workspace, op: Operation) -> dict[str, Any]:
    machine, _ = _running(ws)
    if ws.record.run is RunState.PAUSED:
        return {"already": ws.record.run}
    await op.or_cancelled(machine.pause())
    ws.become(RunState.PAUSED)
    return {}


async def resume(ws: Workspace, op: Operation) -> dict[str, Any]:
    lease, _ = ws.whole()
    machine, _ = _running(ws)
    if ws.record.run is RunState.RUNNING:
        return {"already": ws.record.run}
    rights.require(lease, ws.record)
    _require_room(ws)
    await op.or_cancelled(machine.resume())
    ws.become(RunState.RUNNING, error=None)
    if ws.guest is not None:
        ws.guest.set_time_when_up()
    return {}


def _running(ws: Workspace) -> tuple[Machine, OpenVault]:
    if ws.record.run not in _LIVE or ws.machine is None or ws.vault is None:
        raise ConflictError(
            f"{ws.title} is {ws.run}.", safe="Nothing was changed.", next=f"Start it:  twofold start {ws.name}"
        )
    return ws.machine, ws.vault


def _require_room(ws: Workspace) -> None:
    free = shutil.disk_usage(ws.folder).free
    if free < ROOM:
        raise NoRoomError(
            f"The disk that holds {ws.title} has {free >> 20} MiB left; it needs {ROOM >> 20} MiB to run.",
            safe="Your work is safe; nothing was started.",
            next="Free some space on this disk, then try again.",
        )


def _require_memory(ws: Workspace) -> None:
    """Before anything is opened: its memory was fixed at check-out, and this machine may have less today."""
    try:
        memory.require(ws.record.memory_mib << 20, ws.title)
    except NoRoomError as short:
        ws.fail(short)
        raise
