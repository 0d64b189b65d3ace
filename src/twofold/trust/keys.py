"""Ed25519 keys: the device's, the publisher's, the server's. A key's id is the hex SHA-256 of its public bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from twofold.model.errors import BadInputError, DamagedError, RefusedError


@dataclass(frozen=True)
class VerifyKey:
    """The public half. `public` is 32 bytes (RFC 8032)."""

    public: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.public).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    @classmethod
    def from_hex(cls, untrusted_hex: object) -> VerifyKey:
        """
        Raises:
            BadInputError: not 64 small hex digits.
        """
        return cls(hex_bytes(untrusted_hex, 32, "a public key"))


@dataclass(frozen=True)
class SigningKey:
    """The private half. It is made where it is used and never travels."""

    private: Ed25519PrivateKey

    @property
    def verify_key(self) -> VerifyKey:
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return VerifyKey(self.private.public_key().public_bytes(*raw))

    @property
    def id(self) -> str:
        return self.verify_key.id

    def sign(self, message: bytes) -> bytes:
        """64 bytes (RFC 8032)."""
        return self.private.sign(message)

    @classmethod
    def make(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate())

    def save(self, path: Path, passphrase: bytes | None = None) -> None:
        """Write as PKCS 8, for this user alone; sealed with `passphrase` where there is one."""
        lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_private(path, self.private.private_bytes(*pem, lock))

    @classmethod
    def load(cls, path: Path, passphrase: bytes | None = None) -> SigningKey:
        """
        Raises:
            RefusedError: the passphrase is missing or wrong.
            DamagedError: the file holds no such key.
        """
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
        except TypeError as off:
            raise RefusedError(f"The key in {path} is sealed with a passphrase.", next="Give its passphrase.") from off
        except ValueError as off:
            kind = RefusedError if passphrase else DamagedError
            raise kind(f"The key in {path} cannot be read.", next="Give its passphrase, or restore it.") from off
        if not isinstance(key, Ed25519PrivateKey):
            raise DamagedError(f"The key in {path} is of another kind.", next="Restore it from a copy.")
        return cls(key)


def hex_bytes(untrusted_hex: object, size: int, what: str) -> bytes:
    """Validate `size` bytes written as small hex digits.

    Raises:
        BadInputError: it is anything else.
    """
    if type(untrusted_hex) is str and len(untrusted_hex) == 2 * size and not untrusted_hex.strip("0123456789abcdef"):
        return bytes.fromhex(untrusted_hex)
    raise BadInputError(f"This is not {what} ({size} bytes in hex).")


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all, durable on return, mode 0600."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
