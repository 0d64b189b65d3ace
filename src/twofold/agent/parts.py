"""A workspace's kernel and initrd at rest: small files that the vault process seals; at start, memfds that it opens."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from twofold.agent.store import as_json, sync_folder
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, DamagedError, NoRoomError
from twofold.model.image import ImageVersion, Part
from twofold.model.progress import Progress
from twofold.vault.seam import Parts

if TYPE_CHECKING:
    from twofold.trust.keys import SigningKey, VerifyKey

FOLDER = "parts"
_LIMIT = 256 << 20  # bytes; a kernel or an initrd is far below
_MARK = b"twofold image of this device %d\n"


def seal(folder: Path, vault: Parts, part: Part, source: BinaryIO, progress: Progress) -> None:
    """Seal `source` into `folder`, after its digest was found to be the manifest's.

    Raises:
        DamagedError: too large, or not the bytes that the manifest names. NoRoomError: the disk is full.
    """
    if part.size > _LIMIT:
        raise DamagedError(f"The image's {part.name} is larger than any we know ({part.size} bytes).")
    with ExitStack() as stack:
        plain = os.memfd_create(f"twofold-{part.name}", os.MFD_CLOEXEC)
        stack.callback(os.close, plain)
        _receive(plain, part, source, progress)
        fresh, path = folder / f".{part.name}.sealed.new", folder / f"{part.name}.sealed"
        sealed = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, sealed)
        try:
            vault.seal_part(part, plain, sealed)
        except NoRoomError:
            fresh.unlink(missing_ok=True)
            raise
        fresh.replace(path)
    sync_folder(folder)


def _receive(plain: int, part: Part, source: BinaryIO, progress: Progress) -> None:
    digest, size = hashlib.sha256(), 0
    while size <= part.size and (block := source.read(1 << 20)):
        os.write(plain, block)
        digest.update(block)
        size += len(block)
        progress(f"receiving {part.name}", size, part.size)
    if size != part.size or digest.hexdigest() != part.sha256:
        raise DamagedError(
            f"The image's {part.name} is not what its publisher signed.",
            safe="Nothing of it was used.",
            next="Try again; if it stays, tell your administrator.",
        )
    os.lseek(plain, 0, os.SEEK_SET)


def unseal(folder: Path, vault: Parts, image: ImageVersion, name: str) -> int:
    """A sealed part as a memfd that the caller closes; its plain bytes are only ever in memory.

    Raises:
        DamagedError: missing, torn or forged.
    """
    part = image.part(name)
    try:
        if part is None:
            raise DamagedError("No such part.")
        sealed = os.open(folder / f"{name}.sealed", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return vault.open_part(part, sealed)
        finally:
            os.close(sealed)
    except (OSError, DamagedError) as damaged:
        raise DamagedError(
            f"The workspace's {name} is damaged on this disk.",
            safe="The user's disk is untouched.",
            next="Check the workspace out again to have it replaced:  twofold checkout WORKSPACE",
        ) from damaged


def seal_manifest(device: SigningKey, image: ImageVersion, base: str) -> bytes:
    """An image's manifest for `image.json`: readable, and signed by this device, so that nobody else can have changed it.
    `base` is the digest of the index that the vault's disks stand on, empty where they hold everything themselves."""
    body: dict[str, object] = {"manifest": image.to_wire()} | ({"base": base} if base else {})
    return json.dumps(body | {"signature": device.sign(_marked(body)).hex()}, indent=1).encode() + b"\n"


def open_manifest(device: VerifyKey, untrusted_data: bytes) -> tuple[ImageVersion, str]:
    """The manifest and the digest of its index. Raises: DamagedError: it is not what this device wrote at check-out."""
    body = as_json(untrusted_data, "The workspace's image description")
    try:
        if not device.verifies(bytes.fromhex(body.pop("signature")), _marked(body)):
            raise BadInputError("its signature does not hold")
        return ImageVersion.from_wire(body["manifest"]), str(body.get("base", ""))
    except (BadInputError, KeyError, TypeError, ValueError) as forged:
        raise DamagedError(
            "The workspace's image description is not what was written at check-out.",
            safe="Its disks were not touched.",
        ) from forged


def _marked(body: dict[str, object]) -> bytes:
    # A vault that was filled is described as ever, so that what former versions signed still holds.
    return _MARK % 2 + canonical(body) if "base" in body else _MARK % 1 + canonical(body["manifest"])
