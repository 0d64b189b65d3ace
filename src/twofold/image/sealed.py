"""A sealed index: the image index as it lies on the server and on sticks, opened by the company's reading key alone.

    sealed = nonce (12 bytes), AES-256-GCM(key, zlib(canonical JSON of the index)), with "twofold-index-1 IMAGE VERSION" beside it
    key    = HKDF-SHA256(reading key, info "twofold 2026-11 index IMAGE VERSION")

The index holds the key of every chunk, so whoever opens it reads the image. The reading key reaches a device in its invitation,
behind the #, which no server sees.
"""

from __future__ import annotations

import json
import secrets
import zlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twofold.image.chunks import MAX_INDEX, ImageIndex
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, RefusedError

_NONCE = 12


def seal(index: ImageIndex, reading: bytes) -> bytes:
    """`reading` is the company's key, 32 bytes (`trust.publisher`)."""
    name, nonce = _name(index.manifest.image, index.manifest.version), secrets.token_bytes(_NONCE)
    body = zlib.compress(canonical(index.to_wire()), 3)
    return nonce + AESGCM(_key(reading, name)).encrypt(nonce, body, name)


def unseal(untrusted_sealed: bytes, reading: bytes, image: str, version: int) -> ImageIndex:
    """The index of exactly this image and version. Its digest was checked before, against the publisher's targets.

    Raises:
        RefusedError: sealed for another image, version or company. BadInputError: it opens and is malformed.
    """
    name = _name(image, version)
    try:
        body = AESGCM(_key(reading, name)).decrypt(untrusted_sealed[:_NONCE], untrusted_sealed[_NONCE:], name)
    except (InvalidTag, ValueError) as off:
        raise RefusedError(
            f"The index of {image} version {version} does not open with this company's reading key.",
            safe="It was not used.",
            next="If your company has changed its keys, ask it for a new invitation.",
        ) from off
    packed = zlib.decompressobj()
    try:
        plain = packed.decompress(body, MAX_INDEX)
        if not packed.eof:
            raise ValueError("too long")
        document = json.loads(plain)
    except (ValueError, zlib.error, RecursionError) as off:
        raise BadInputError(f"The index of {image} version {version} cannot be read.") from off
    index = ImageIndex.from_wire(document)
    if (index.manifest.image, index.manifest.version) != (image, version):
        raise BadInputError(
            f"The index of {image} version {version} is {index.manifest.image}'s version {index.manifest.version}."
        )
    return index


def _name(image: str, version: int) -> bytes:
    return f"twofold-index-1 {image} {version}".encode()


def _key(reading: bytes, name: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, b"twofold 2026-11 index " + name).derive(reading)
