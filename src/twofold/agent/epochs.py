"""A new key epoch while a workspace is held: its lease asks for one when a device that may know the key of now is trusted no more
(docs/keys.md, *Epochs*). The new key is on the disk before anything is sealed under it; what is cut off is begun again.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from twofold.agent.store import KEY
from twofold.model.errors import BadInputError
from twofold.model.workspace import Custody

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace
    from twofold.vault.seam import Keys

log = logging.getLogger(__name__)
_MOST = 64  # epochs that a lease may be ahead by


def due(ws: Workspace) -> bool:
    """Whether the lease asks for a key epoch that was not begun for it."""
    record = ws.record
    held = ws.lease is not None and ws.wrong is None and record.custody is Custody.CHECKED_OUT
    return held and not record.taken and not record.leaving and ws.lease is not None and ws.lease.epoch > record.epoch


async def begin(ws: Workspace) -> None:
    """Begin it, if it is due. The workspace's turn is held. Under an unlock code it is begun when that is given next, since new
    keys can't be kept without it.

    Raises:
        TwofoldError: it is to be begun at the next contact; until then everything goes on under the key of before.
    """
    async with ws.one_code:
        if not due(ws) or ws.stored_keys().locked:
            return
        if ws.machine is not None and ws.vault is None:
            return  # its store is being opened anew
        keys = await asyncio.to_thread(fresh, ws, ws.keys())
        await asyncio.to_thread(ws.store.write, ws.name, KEY, keys.wrapped)
        await kept(ws, keys)


def fresh(ws: Workspace, keys: Keys) -> Keys:
    """The keys as they are to be: with a new epoch where one is due. Blocks.

    Raises:
        BadInputError: the lease asks for more than can be.
    """
    lease, _ = ws.whole()
    if not due(ws) or (
        ws.record.epoch == 0 and keys.epoch >= lease.epoch
    ):  # of an earlier build, which began it at check-out
        return keys
    if lease.epoch - keys.epoch > _MOST:
        raise BadInputError(f"The lease of {ws.title} asks for key epoch {lease.epoch}.", safe="Nothing was changed.")
    keys = ws.rooms.vault.next_epoch(keys)
    while keys.epoch < lease.epoch:
        keys = ws.rooms.vault.next_epoch(keys)
    return keys


async def kept(ws: Workspace, keys: Keys) -> None:
    """They are on the disk: the store that is open goes on under them."""
    lease, _ = ws.whole()
    if not due(ws):
        return
    if ws.vault is not None:
        await asyncio.to_thread(ws.vault.begin_epoch, keys)
    ws.note(epoch=lease.epoch)
    log.info("key epoch %d begins", keys.epoch, extra={"workspace": ws.name})


def least(ws: Workspace) -> int:
    """The least key epoch that a back up is sent in: what was committed before a newer one began goes with the next."""
    lease, _ = ws.whole()
    return min(lease.epoch, ws.keys().epoch)
