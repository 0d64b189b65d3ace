"""The disk that a person's work lies on gets larger: at once where the workspace is off, at its next boot where it is not.

What is wanted stands in the state file before the vault does it, and is done by whoever boots the workspace next: an agent or a
vault process that is killed in between leaves the old size or the new one, and nothing between them. Generations keep their size.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from twofold.agent import hardware, rights
from twofold.agent.disks import at_hand
from twofold.agent.store import VAULT, Record
from twofold.model.errors import RefusedError, UsageError
from twofold.model.image import ImageVersion
from twofold.model.workspace import RunState

if TYPE_CHECKING:
    from twofold.agent.operations import Operation
    from twofold.agent.workspace import Workspace

log = logging.getLogger(__name__)
STEP = 1 << 20  # sizes are whole MiB
_MOST = 1 << 46  # bytes; more than any disk here, and less than a vault can't have


async def resize(ws: Workspace, op: Operation, *, size: int) -> dict[str, Any]:
    """Give the disk so many bytes, rounded up to whole MiB. The size that it has takes back what was asked for and not done yet.
    `at`: `now` or `next start`; `inside`: the guest's file system grows by itself.

    Raises:
        RefusedError: it would become smaller; or the policy gives it no more, or not so much.
    """
    lease, image = ws.whole()
    name = disk(image)
    rights.require(lease, ws.record)
    if not 0 < size <= _MOST:
        raise UsageError("No disk can have this size.", safe="Nothing was changed.")
    size = -(-size // STEP) * STEP
    op.progress("opening the sealed disks", 0, 0)
    was = await asyncio.to_thread(_size, ws, name)
    if size < was:
        raise RefusedError(
            f"The disk of {ws.title} has {was >> 20} MiB, and is never made smaller: its file system, and work, may lie in what"
            " would be cut off.",
            safe="Nothing was changed.",
            next="Empty space takes no room here or on the server. An earlier back up has the size that it had then.",
        )
    found = {"device": name, "was": was, "size": size, "inside": image.has_agent and name == hardware.USER}
    if size == was:
        ws.keep(grow_to=0)
        return found | {"at": "now"}
    _require(ws, size)
    op.commit("The disk is growing already.")
    ws.keep(grow_to=size)
    if ws.record.run is not RunState.OFF:
        return found | {"at": "next start"}
    await apply(ws, op)
    return found | {"at": "now"}


def disk(image: ImageVersion) -> str:
    """The disk that can grow: the user's own, or the only one that there is.

    Raises:
        RefusedError: nothing that is written to is kept.
    """
    last = hardware.devices(image)[-1]
    if last.base:
        raise RefusedError(
            "This image has no disk of its own for the user, and its system begins anew at each start.",
            safe="Nothing was changed.",
        )
    return last.name


def due(record: Record, *, boot: bool) -> bool:
    """Whether a start has it to do first. Suspended memory belongs to the disks as they are: who resumes goes on with those."""
    return bool(record.grow_to) and (boot or not record.memory_stored)


async def apply(ws: Workspace, op: Operation) -> None:
    """Do what was asked for. The workspace is off, and its turn is held; what is cut off here the next boot does again."""
    _, image = ws.whole()
    size = ws.record.grow_to
    try:
        _require(ws, size)
    except RefusedError as no:  # the company has thought of it again: that is no reason not to start
        log.warning("the disk was not made larger: %s", no.happened, extra={"workspace": ws.name})
        ws.note(grow_to=0)
        return
    op.progress("making the disk larger", 0, 0)
    await asyncio.to_thread(_grow, ws, disk(image), size)
    ws.note(grow_to=0, memory_stored=False)
    log.info("the disk has %d MiB now", size >> 20, extra={"workspace": ws.name})


def _require(ws: Workspace, size: int) -> None:
    lease, _ = ws.whole()
    most = lease.policy.disk_gib << 30
    if size <= most:
        return
    raise RefusedError(
        f"Your company lets the disk of {ws.title} have {lease.policy.disk_gib} GiB at the most."
        if most
        else f"Your company does not let the disk of {ws.title} be made larger.",
        safe="Nothing was changed.",
        next="Ask your administrator (the policy's rule disk_gib).",
    )


def _size(ws: Workspace, name: str) -> int:
    with at_hand(ws) as vault:
        return next(int(row["size"]) for row in vault.status()["vault"]["devices"] if row["name"] == name)


def _grow(ws: Workspace, name: str, size: int) -> None:
    with ws.rooms.vault.resting(ws.folder / VAULT, ws.keys()) as vault:
        vault.consume_memory()
        now = next(int(row["size"]) for row in vault.status()["vault"]["devices"] if row["name"] == name)
        if now < size:  # an agent before us may have come this far
            vault.resize(name, size)
