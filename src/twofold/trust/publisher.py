"""The publisher: the keys that say which image is which, and the company secret that seals chunks. All of it stays on the
publisher's machine; `root.pem` may lie elsewhere until keys change."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twofold.model.errors import DamagedError, MissingError
from twofold.platform.dirs import private
from twofold.trust.keys import SigningKey, write_private

_FILES = ("publisher.pem", "company-secret")


@dataclass(frozen=True)
class Anchor:
    """What an invitation says of a company's images: the SHA-256 (hex) of the root that the device pins, and the key (32 bytes)
    that opens indexes."""

    root: str
    reading: bytes


@dataclass(frozen=True)
class Publisher:
    """`signing` is the key of targets. `secret` (32 bytes) makes equal plaintext equal chunks within one company, and tells other
    companies nothing."""

    folder: Path
    signing: SigningKey
    secret: bytes
    passphrase: bytes | None = None

    @property
    def reading(self) -> bytes:
        """Opens the indexes of all of the company's images; its devices have it."""
        return HKDF(SHA256(), 32, None, b"twofold 2026-11 reading key").derive(self.secret)

    def root_key(self) -> SigningKey:
        """
        Raises:
            MissingError: it is kept somewhere else.
        """
        path = self.folder / "root.pem"
        if not path.exists():
            raise MissingError(
                f"The root key is not in {self.folder}.", next="Bring root.pem from where it is kept, and try again."
            )
        return SigningKey.load(path, self.passphrase)

    def kept(self, name: str) -> bytes | None:
        """The newest of a role's documents that this publisher made or saw: `root` or `targets`."""
        path = self.folder / f"{name}.json"
        return path.read_bytes() if path.exists() else None

    def keep(self, name: str, document: bytes) -> None:
        write_private(self.folder / f"{name}.json", document)

    def anchor(self) -> Anchor:
        """
        Raises:
            MissingError: nothing was published from here yet, so there is no root.
        """
        root = self.kept("root")
        if root is None:
            raise MissingError(
                "The company has no root key yet.", next="Publish an image first:  twofold image publish FOLDER"
            )
        return Anchor(hashlib.sha256(root).hexdigest(), self.reading)


def publisher(folder: Path, passphrase: bytes | None = None, *, make: bool = True) -> Publisher:
    """The publisher in `folder` (`publisher.pem`, `root.pem`, `company-secret`), made at the first call unless not to `make`.

    Raises:
        MissingError: there is none, and none was to be made.
        RefusedError: `publisher.pem` is sealed and `passphrase` is missing or wrong.
        DamagedError: a file is not what was written, or one is gone.
    """
    key, company = (private(folder) / name for name in _FILES)
    if not key.exists() and not company.exists():
        if not make:
            raise MissingError(
                "The company's keys of images are not on this machine.",
                next="Do this where images are published from, or copy its publisher folder here.",
            )
        write_private(company, secrets.token_bytes(32))
        SigningKey.make().save(folder / "root.pem", passphrase)
        SigningKey.make().save(key, passphrase)
    if not key.exists() or not company.exists() or len(company.read_bytes()) != 32:
        raise DamagedError(
            f"The publisher's keys in {folder} are not complete.",
            safe="Published images are not affected.",
            next="Restore publisher.pem and company-secret from a copy.",
        )
    if not (folder / "root.pem").exists() and not (folder / "root.json").exists():
        SigningKey.make().save(folder / "root.pem", passphrase)  # a publisher from before there were roots
    return Publisher(folder, SigningKey.load(key, passphrase), company.read_bytes(), passphrase)
