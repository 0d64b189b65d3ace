"""A workspace goes to another version of its image, or its system begins anew, at its next start. The user's disk stays; what was
changed in the system is dropped, since no overlay is ever carried to another version.

Everything is made ready beside what is there, in the folder `next`, also while the workspace runs. At the start the vault gives
up the system's changes in one root; from then on only the new version is started, or the former one as it was published: never
one version's changes on another. What was there before stays in `former` until the new version has come up once.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.agent import base, hardware, parts
from twofold.agent.disks import at_hand
from twofold.agent.paid import STEP
from twofold.agent.store import IMAGE, VAULT, Record, sync_folder, write_durably
from twofold.model.errors import ConflictError, DamagedError, NoRoomError, RefusedError, TwofoldError, UsageError
from twofold.model.image import Firmware, ImageVersion

if TYPE_CHECKING:
    from twofold.agent.backup import Turn
    from twofold.agent.operations import Operation
    from twofold.agent.registry import Registry
    from twofold.agent.workspace import Workspace
    from twofold.image.chunks import ImageIndex
    from twofold.vault.seam import Inspected

log = logging.getLogger(__name__)
NEXT, FORMER = "next", "former"
# What a record says is to be done at the next boot; SWITCH is done by whoever reads the workspace next, before anything else.
UPGRADE, RESET, BACK, SWITCH = "upgrade", "reset", "back", "switch"
UNDO = "before an upgrade"  # the note of the generation that an upgrade which fails goes back to
_AGAIN = 5.0
SETTLED = 5  # seconds that a system without our agent must run to have come up
PATIENCE = 180  # seconds from a start to a desktop, after which it has failed
# These say something of the person, the policy or this machine, and nothing of the image.
NOT_THE_IMAGE = {
    "usage", "missing", "not-found", "refused", "conflict", "no-room", "unreachable", "timed-out", "cancelled"
}  # fmt: skip


def lost(ws: Workspace) -> str:
    """What a change drops, as it is said before."""
    if ws.image is not None and len(hardware.devices(ws.image)) == 1:
        return f"everything in {ws.title}: its image has no disk of its own for the user"
    return f"what was installed or changed in the system of {ws.title}, outside the user's own disk"


def due(record: Record, *, boot: bool) -> bool:
    """Whether a start has a change to make first. Suspended memory belongs to what is there: who resumes it goes on with that."""
    return record.change in (UPGRADE, RESET, BACK) and (boot or not record.memory_stored)


def pending(record: Record) -> dict[str, Any] | None:
    """As `WORKSPACE.pending` in docs/protocol.md."""
    if not record.change and not record.upgrade_to:
        return None
    return {"change": record.change or "fetch", "version": record.upgrade_to}


# To another version: everything that can be done before


async def upgrade(registry: Registry, ws: Workspace, op: Operation, turn: Turn, *, version: int) -> dict[str, Any]:
    """Have a version ready beside what is there, which may run meanwhile; the next boot takes it. Only pieces that this machine
    lacks are fetched. The version that is there already drops one that was made ready.

    Raises:
        RefusedError: the publisher does not give this version out. ConflictError: it can't take this one's place.
    """
    lease, image = ws.whole()
    began = time.monotonic()
    if version == image.version:
        ws.note(upgrade_to=0, change="" if ws.record.change == UPGRADE else ws.record.change)
        await asyncio.to_thread(shutil.rmtree, ws.folder / NEXT, ignore_errors=True)
        return {"version": version, "received": 0, "already": True}
    if ws.record.change == UPGRADE and ws.record.upgrade_to == version:
        return {"version": version, "received": 0, "ready": True}
    ws.note(upgrade_to=version, change="" if ws.record.change == UPGRADE else ws.record.change)
    try:
        op.progress("asking the server", 0, 0)
        remote = await asyncio.to_thread(ws.rooms.remote)
        index = await asyncio.to_thread(partial(remote.index, lease.image, version, image.arch, given_out=True))
        _require_alike(ws, image, index.manifest)
        while await registry.supply.paid.holds(ws):
            op.progress(STEP, 0, 0)
            await op.or_cancelled(asyncio.sleep(_AGAIN))
        received = await asyncio.to_thread(_bring, registry, ws, index, op)
        async with turn:
            ws.whole()
            digest = await asyncio.to_thread(_seal, registry, ws, index, op)
            op.commit(f"Version {version} of {ws.title} is ready already.")
            description = parts.seal_manifest(ws.rooms.identity.signing, index.manifest, digest)
            await asyncio.to_thread(write_durably, ws.folder / NEXT / IMAGE, description)
            ws.note(change=UPGRADE)
    except TwofoldError as failed:
        if failed.code not in ("unreachable", "timed-out", "no-room"):  # those go on by themselves
            ws.note(upgrade_to=0)
        raise
    return {
        "version": version,
        "received": received,
        "image": sum(index.ids.values()),
        "drops": lost(ws),
        "seconds": round(time.monotonic() - began, 3),
    }


def _require_alike(ws: Workspace, now: ImageVersion, then: ImageVersion) -> None:
    def shape(image: ImageVersion) -> tuple[object, ...]:
        return image.arch, tuple(device.name for device in hardware.devices(image))

    if shape(now) != shape(then):
        raise ConflictError(
            f"Version {then.version} of {ws.title} is for another machine, or has other disks than version {now.version}.",
            safe="Nothing was changed.",
            next="Your administrator can have the workspace checked in, and granted anew from that version.",
        )


def _bring(registry: Registry, ws: Workspace, index: ImageIndex, op: Operation) -> int:
    from twofold.image import patches
    from twofold.image.fetch import fetch, lacking

    shutil.rmtree(ws.folder / NEXT, ignore_errors=True)
    (ws.folder / NEXT).mkdir(mode=0o700)
    base.note(ws.folder / NEXT, index)
    cache = registry.supply.cache
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    needed = sum(index.ids[chunk] for chunk in lacking(cache, index.ids))
    free = shutil.disk_usage(ws.folder).free
    if free < needed + (64 << 20):
        raise NoRoomError(
            f"The disk has {free >> 20} MiB left; the new version of {ws.title} needs {(needed >> 20) + 64} MiB.",
            safe="The version that is here goes on.",
            next="Free some space on this disk; it goes on by itself.",
        )
    op.whole, remote = sum(index.ids.values()), ws.rooms.remote()
    patched = patches.bring(index, remote, cache, op.progress)
    return patched + fetch(index.ids, remote, cache, op.progress).sent


def _seal(registry: Registry, ws: Workspace, index: ImageIndex, op: Operation) -> str:
    from twofold.image.fetch import open_part

    image, folder = index.manifest, ws.folder / NEXT
    with at_hand(ws) as vault:
        for name in hardware.BOOT_PARTS if image.firmware is Firmware.DIRECT else ():
            part = image.part(name)
            if part is not None:
                with open_part(index, name, registry.supply.cache, ws.rooms.remote()) as source:
                    parts.seal(folder / parts.FOLDER, vault, part, source, op.progress)
        return base.seal(folder, vault, index, op.progress)


# The system anew


async def reset(ws: Workspace, op: Operation, *, yes: bool, may: str = "reset") -> dict[str, Any]:
    """The system begins anew at the next start; suspended memory, which belongs to the one that is there, is dropped now.

    Raises:
        RefusedError: the company does not let the person do that.
    """
    lease, _ = ws.whole()
    if may and not getattr(lease.policy, may):
        raise RefusedError(
            f"Your company does not let the system of {ws.title} be reset by yourself.",
            safe="Nothing was changed.",
            next="Ask your administrator.",
        )
    if not yes:
        raise UsageError(
            f"Resetting drops {lost(ws)}.", safe="Nothing was changed.", next=f"See first:  twofold reset {ws.name}"
        )
    if may and ws.record.memory_stored and ws.machine is None:
        from twofold.agent.power import off

        await off(ws, op)
    if ws.record.change not in (UPGRADE, BACK):  # either of those drops them as well
        ws.note(change=RESET)
    return {"drops": lost(ws), "at": "next start"}


# At the start


async def apply(ws: Workspace, op: Operation) -> None:
    """Make the change that is due. The workspace is off, and its turn is held. What fails or is cut off here is done again by the
    next start; nothing of a mixture is ever read."""
    what, former = ws.record.change, ws.folder / FORMER
    op.progress("preparing the system", 0, 0)
    if what == BACK:
        await asyncio.to_thread(_put_back, ws)
    else:
        _, image = ws.whole()
        if what == UPGRADE:
            image = await asyncio.to_thread(_described, ws, NEXT)
            ws.note(undo=await asyncio.to_thread(_undo, ws))
        await asyncio.to_thread(_drop, ws, image)
    if what == RESET:
        ws.note(change="", memory_stored=False, error=None)
        return
    if what == UPGRADE:
        await asyncio.to_thread(shutil.rmtree, former, ignore_errors=True)
    kept = ws.record.undo if what == UPGRADE else 0
    ws.note(change=SWITCH, trial=what == UPGRADE, undo=kept, upgrade_to=0, memory_stored=False)
    await asyncio.to_thread(ws.load)
    ws.whole()
    log.info("now on version %d", ws.record.version, extra={"workspace": ws.name})
    ws.tell()


def _described(ws: Workspace, where: str) -> ImageVersion:
    try:
        untrusted_description = (ws.folder / where / IMAGE).read_bytes()
    except OSError as gone:
        raise DamagedError(f"The version that {ws.title} was to go to is gone from this disk.") from gone
    return parts.open_manifest(ws.rooms.identity.verify_key, untrusted_description)[0]


def _undo(ws: Workspace) -> int:
    """The generation that has what is about to be dropped; made where it is not yet."""
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        there = {each.number for each in vault.generations()}
        return ws.record.undo if ws.record.undo in there else vault.commit(UNDO).number


def _drop(ws: Workspace, image: ImageVersion) -> None:
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        vault.consume_memory()
        for each in vault.generations():
            if (
                each.number != ws.record.undo
            ):  # whoever sent one of them later would say that it stands on the new version
                vault.forget(each.number)
        begin_anew(vault, image)


def begin_anew(vault: Inspected, image: ImageVersion) -> None:
    """The system disk is the image's, with nothing written to it; the user's keeps what it has."""
    sizes = {row["name"]: row["size"] for row in vault.status()["vault"]["devices"]}
    for device in hardware.devices(image):
        if device.name == hardware.SYSTEM:
            vault.begin_anew(device.name, device.size, read_only=device.base)
        elif sizes[device.name] < device.size:
            vault.resize(device.name, device.size)


def _put_back(ws: Workspace) -> None:
    """The former version: with the changes that its system had, if nothing was written to the user's disk since."""
    former = ws.folder / FORMER
    image = _described(ws, FORMER if former.is_dir() else NEXT)
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        vault.consume_memory()
        kept, others = ws.record.undo, [each.name for each in hardware.devices(image) if each.name != hardware.SYSTEM]
        there = {each.number for each in vault.generations()}
        for number in there - {kept}:
            vault.forget(number)
        alike = ws.image is not None and ws.image.mode is image.mode
        if alike and kept in there and not any(True for name in others for _ in vault.changed(name, kept)):
            vault.revert(kept)
        else:
            begin_anew(vault, image)
    if former.is_dir():
        shutil.rmtree(ws.folder / NEXT, ignore_errors=True)
        former.rename(ws.folder / NEXT)
        sync_folder(ws.folder)


def settle(folder: Path, record: Record) -> None:
    """What is in `next` is there from now on, and what was there is in `former`. Cut off anywhere, it is gone on with."""
    there, former = folder / NEXT, folder / FORMER
    if there.is_dir():
        former.mkdir(mode=0o700, exist_ok=True)
        for name in (parts.FOLDER, IMAGE):
            if (there / name).exists():
                if not (former / name).exists() and (folder / name).exists():
                    (folder / name).rename(former / name)
                    sync_folder(former)
                (there / name).rename(folder / name)
                sync_folder(folder)
        shutil.rmtree(there)
    if not record.trial:
        shutil.rmtree(former, ignore_errors=True)


# Whether the new version comes up


def failed(ws: Workspace, error: TwofoldError) -> bool:
    """A start has failed: whether that is a new version's fault, which then gives way to the former one."""
    if not ws.record.trial or error.code in NOT_THE_IMAGE:
        return False
    log.warning("the new version does not start: %s", error.code, extra={"workspace": ws.name})
    ws.note(change=BACK)
    return True


async def judge(ws: Workspace, now: int) -> None:
    """While a new version runs: it has come up, or it has not for so long that the next start is the former one's."""
    if not ws.record.trial or ws.record.change or ws.vault is None:
        return
    ran, up = now - ws.record.launched_at, ws.guest is not None and ws.guest.session_up
    has_agent = ws.image is not None and ws.image.has_agent
    if up or (not has_agent and ran >= SETTLED):
        await asyncio.to_thread(_keep, ws)
        ws.note(trial=False, undo=0)
        await asyncio.to_thread(shutil.rmtree, ws.folder / FORMER, ignore_errors=True)
    elif has_agent and ran > PATIENCE:
        ws.note(change=BACK, error=_went_back(ws).to_wire())


def _keep(ws: Workspace) -> None:
    with at_hand(ws) as vault:
        for each in vault.generations():
            if each.number == ws.record.undo:
                vault.forget(each.number)


def _went_back(ws: Workspace) -> TwofoldError:
    return TwofoldError(
        f"Version {ws.record.version} of {ws.title} has not come up.",
        safe="The user's disk is kept as it is.",
        next=f"Stop and start it: the former version is used again.  twofold off {ws.name}",
    )
