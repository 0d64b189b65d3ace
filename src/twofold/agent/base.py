"""What a workspace keeps of its image version beside the vault: the sealed index for the vault process, and the list of chunks by
which this agent fetches, counts and frees. Neither opens anything."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twofold.agent import hardware, parts
from twofold.agent.operations import Operation
from twofold.agent.store import sync_folder, write_durably
from twofold.model.errors import ConflictError, DamagedError, NotFoundError
from twofold.model.image import Part
from twofold.model.progress import Progress, silent
from twofold.vault.seam import Base, Parts

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace
    from twofold.image.base import Pieces
    from twofold.image.chunks import ImageIndex

NAME, LIST = "base", "base.chunks"
# What a start needs before the vault's disks are read at all, and what the vault is filled with.
FIRST = ("user-template", *hardware.BOOT_PARTS)


def note(folder: Path, index: ImageIndex) -> None:
    """Write down which chunks the workspace in `folder` stands on: from here on they are kept."""
    from twofold.image import base

    (folder / parts.FOLDER).mkdir(mode=0o700, exist_ok=True)
    write_durably(folder / parts.FOLDER / LIST, base.to_list(base.order(index, FIRST)))
    sync_folder(folder)


def pieces(folder: Path) -> Pieces:
    """What `note` wrote; nothing for a workspace whose vault holds its whole image. Raises: DamagedError."""
    from twofold.image import base

    try:
        return base.from_list((folder / parts.FOLDER / LIST).read_bytes())
    except FileNotFoundError:
        return base.Pieces({})


def plain(index: ImageIndex) -> tuple[bytes, Part]:
    """The index for the vault process, and what it is known by. The same image version gives the same bytes."""
    from twofold.image import base

    body = base.index(index, [hardware.SYSTEM])
    return body, Part(NAME, len(body), hashlib.sha256(body).hexdigest())


def seal(folder: Path, vault: Parts, index: ImageIndex, progress: Progress = silent) -> str:
    """Have the chunks' keys sealed beside the boot parts; this process forgets them. Answers the digest to be kept."""
    body, part = plain(index)
    parts.seal(folder / parts.FOLDER, vault, part, io.BytesIO(body), progress)
    return part.sha256


def require(folder: Path, vault: Parts, digest: str) -> None:
    """Raises: DamagedError: the sealed index in the folder of parts is not the one of this digest."""
    try:
        sealed = os.open(folder / f"{NAME}.sealed", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as gone:
        raise DamagedError("The index of the workspace's image is gone.") from gone
    try:
        os.close(vault.open_part(Part(NAME, 0, digest), sealed))
    finally:
        os.close(sealed)


def of(ws: Workspace, cache: Path) -> Base | None:
    """What the vault process is opened on; None where the vault holds everything itself."""
    if not ws.base_digest:
        return None
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    sealed = ws.folder / parts.FOLDER / f"{NAME}.sealed"
    if not sealed.exists():
        raise DamagedError(
            f"The index of {ws.title}'s image is gone from this disk.",
            safe="The user's disk is untouched.",
            next=f"Have it replaced:  twofold checkout {ws.name}",
        )
    return Base(sealed, ws.base_digest, (cache,))


async def touched(ws: Workspace, op: Operation) -> dict[str, Any]:
    """Which ranges of the image this start has read, in that order: for `image publish --first-boot`."""
    if ws.vault is None:
        raise ConflictError(
            f"{ws.title} does not run.", safe="Nothing was changed.", next=f"Start it:  twofold start {ws.name}"
        )
    if not ws.base_digest:
        raise NotFoundError(f"The store of {ws.title} holds its whole image; what is read of it is not noted.")
    op.progress("asking the store", 0, 0)
    return {"ranges": [list(each) for each in await asyncio.to_thread(ws.vault.touched)]}
