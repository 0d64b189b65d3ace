"""A workspace's kernel and initrd at rest: small files sealed under a key derived from its data key; at start, memfds."""

from __future__ import annotations

import hashlib
import hmac
import json
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from twofold.agent.store import as_json, write_durably
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, DamagedError
from twofold.model.image import ImageVersion, Part
from twofold.model.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FOLDER = "parts"
_MAGIC = b"twofold-part-1\n"
_LIMIT = 256 << 20  # bytes; a kernel or an initrd is far below


def seal(folder: Path, key: bytes, part: Part, source: BinaryIO, progress: Progress) -> None:
    """Seal `source` into `folder`, after its digest was found to be the manifest's.

    Raises:
        DamagedError: too large, or not the bytes that the manifest names.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if part.size > _LIMIT:
        raise DamagedError(f"The image's {part.name} is larger than any we know ({part.size} bytes).")
    data = bytearray()
    while block := source.read(1 << 20):
        data += block
        progress(f"receiving {part.name}", len(data), part.size)
        if len(data) > part.size:
            break
    if len(data) != part.size or hashlib.sha256(data).hexdigest() != part.sha256:
        raise DamagedError(
            f"The image's {part.name} is not what its publisher signed.",
            safe="Nothing of it was used.",
            next="Try again; if it stays, tell your administrator.",
        )
    nonce = os.urandom(12)
    sealed = AESGCM(_key(key, part.name)).encrypt(nonce, bytes(data), _MAGIC + part.sha256.encode())
    write_durably(folder / f"{part.name}.sealed", _MAGIC + nonce + sealed)


def unseal(folder: Path, key: bytes, image: ImageVersion, name: str) -> int:
    """A sealed part as a memfd that the caller closes; its plain bytes are only ever in memory.

    Raises:
        DamagedError: missing, torn or forged.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    part = image.part(name)
    try:
        if part is None:
            raise ValueError("no such part")
        with (folder / f"{name}.sealed").open("rb") as file:
            sealed = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        with sealed:
            return _unsealed(AESGCM(_key(key, part.name)), part, sealed)
    except (OSError, ValueError, InvalidTag) as damaged:
        raise DamagedError(
            f"The workspace's {name} is damaged on this disk.",
            safe="The user's disk is untouched.",
            next="Check the workspace out again to have it replaced:  twofold checkout WORKSPACE",
        ) from damaged


def _unsealed(cipher: AESGCM, part: Part, sealed: mmap.mmap) -> int:
    """Straight from one file into the other: a kernel is large, and each copy of it costs more than the cipher."""
    start = len(_MAGIC) + 12
    if sealed[: len(_MAGIC)] != _MAGIC or len(sealed) != start + part.size + 16:
        raise ValueError("not what was sealed")
    nonce = sealed[len(_MAGIC) : start]
    memfd = os.memfd_create(f"twofold-{part.name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memfd, part.size)
        with mmap.mmap(memfd, part.size) as plain, memoryview(plain) as room, memoryview(sealed)[start:] as body:
            cipher.decrypt_into(nonce, body, _MAGIC + part.sha256.encode(), room)
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def seal_manifest(key: bytes, image: ImageVersion) -> bytes:
    """An image's manifest for `image.json`: readable, and bound to the data key, so that nobody else can have changed it."""
    body = image.to_wire()
    return json.dumps({"manifest": body, "mac": _mac(key, body)}, indent=1).encode() + b"\n"


def open_manifest(key: bytes, untrusted_data: bytes) -> ImageVersion:
    """Raises: DamagedError: it is not what this device wrote at check-out."""
    body = as_json(untrusted_data, "The workspace's image description")
    try:
        if not hmac.compare_digest(str(body.get("mac")), _mac(key, body.get("manifest"))):
            raise BadInputError("its seal does not hold")
        return ImageVersion.from_wire(body.get("manifest"))
    except (BadInputError, TypeError, ValueError) as forged:
        raise DamagedError(
            "The workspace's image description is not what was written at check-out.",
            safe="Its disks were not touched.",
        ) from forged


def _mac(key: bytes, manifest: object) -> str:
    return hmac.new(_key(key, "manifest"), canonical(manifest), "sha256").hexdigest()


def _key(data_key: bytes, name: str) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), 32, salt=None, info=b"twofold part " + name.encode()).derive(data_key)
