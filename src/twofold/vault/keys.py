"""One key per use, derived from a vault's data key (HKDF, RFC 5869), and small files that carry a proof of origin."""

from __future__ import annotations

import base64
import hmac
import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twofold.model.canonical import canonical
from twofold.model.errors import DamagedError


def subkey(key: bytes, use: str, salt: bytes = b"", length: int = 32) -> bytes:
    """`length` bytes that nothing but `use` may be fed with."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=b"twofold vault 1: " + use.encode()).derive(key)


def passphrase(key: bytes) -> bytes:
    """The disks' LUKS passphrase: 256 bits of full entropy as text, so that its key slot needs no slow derivation."""
    return base64.b64encode(subkey(key, "disk"))


def write_record(path: Path, key: bytes, body: dict[str, Any]) -> None:
    """Durably replace `path` by `body` with a MAC under the vault's key: the whole of it or the former one survives a crash."""
    mac = hmac.digest(subkey(key, f"record {path.name}"), canonical(body), "sha256").hex()
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(json.dumps({"body": body, "mac": mac}).encode())
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def read_record(path: Path, key: bytes) -> dict[str, Any]:
    """The body of a record.

    Raises:
        DamagedError: gone, torn, forged, or of another key.
    """
    try:
        untrusted_record = json.loads(path.read_bytes())
        untrusted_body = untrusted_record["body"]
        mac = hmac.digest(subkey(key, f"record {path.name}"), canonical(untrusted_body), "sha256").hex()
        if not isinstance(untrusted_body, dict) or not hmac.compare_digest(mac, str(untrusted_record["mac"])):
            raise ValueError("its proof of origin is wrong")
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise DamagedError(
            f"The vault's {path.name} cannot be trusted: {wrong}.",
            safe="Nothing was changed; the disk files were not touched.",
            next="Restore the vault's folder from a backup, or roll back to the server's copy.",
        ) from wrong
    return untrusted_body


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
