"""The publisher: the key that signs images and the company secret that seals chunks. Both stay on the publisher's machine."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from twofold.model.errors import DamagedError
from twofold.platform.dirs import private
from twofold.trust.keys import SigningKey, write_private


@dataclass(frozen=True)
class Publisher:
    """`secret` (32 bytes) makes equal plaintext equal chunks within one company, and tells other companies nothing."""

    signing: SigningKey
    secret: bytes


def publisher(folder: Path, passphrase: bytes | None = None) -> Publisher:
    """The publisher in `folder` (`publisher.pem`, `company-secret`), made at the first call.

    Raises:
        RefusedError: `publisher.pem` is sealed and `passphrase` is missing or wrong.
        DamagedError: a file is not what was written, or one of the two is gone.
    """
    key, company = private(folder) / "publisher.pem", folder / "company-secret"
    if not key.exists() and not company.exists():
        write_private(company, secrets.token_bytes(32))
        SigningKey.make().save(key, passphrase)
    if not key.exists() or not company.exists() or len(company.read_bytes()) != 32:
        raise DamagedError(
            f"The publisher's keys in {folder} are not complete.",
            safe="Published images are not affected.",
            next="Restore publisher.pem and company-secret from a copy.",
        )
    return Publisher(SigningKey.load(key, passphrase), company.read_bytes())
