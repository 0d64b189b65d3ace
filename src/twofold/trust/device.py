"""The device's identity: two keys made on the device that never leave it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, DamagedError
from twofold.platform.dirs import private
from twofold.trust.keys import SigningKey, VerifyKey, hex_bytes, write_private

# RFC 9180 in base mode. A workspace's data key is made on its device at check-out and wrapped for that device's key.
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True)
class Identity:
    """`signing` proves who asks; `wrapping` opens data keys that were wrapped for this device."""

    signing: SigningKey
    wrapping: X25519PrivateKey

    @property
    def device(self) -> str:
        """The device's id: hex SHA-256 of its Ed25519 public key."""
        return self.signing.id

    @property
    def verify_key(self) -> VerifyKey:
        return self.signing.verify_key

    @property
    def wrap_public(self) -> bytes:
        return self.wrapping.public_key().public_bytes_raw()

    def unwrap(self, sealed: bytes, workspace: str) -> bytes:
        """The data key that `wrap` sealed for this device and this workspace.

        Raises:
            DamagedError: it was sealed for another device or workspace, or changed since.
        """
        try:
            return _SUITE.decrypt(sealed, self.wrapping, info=_info(workspace))
        except Exception as off:  # cryptography names no common base; whatever it says, the key is not ours
            raise DamagedError(
                f"The key of '{workspace}' cannot be opened on this device.",
                safe="Its sealed data was not touched.",
                next="Restore the device's key file, or check the workspace out again.",
            ) from off


def wrap(data_key: bytes, wrap_public: bytes, workspace: str) -> bytes:
    """Seal a data key (32 bytes) for the device with the X25519 key `wrap_public` (32 bytes), bound to the workspace's name."""
    return _SUITE.encrypt(data_key, X25519PublicKey.from_public_bytes(wrap_public), info=_info(workspace))


def _info(workspace: str) -> bytes:
    return b"twofold-data-key-1 " + workspace.encode()


def identity(state: Path) -> Identity:
    """This device's identity in `state`/device/keys.json (mode 0600); made at the first call.

    Raises:
        DamagedError: the file is not what was written. It is never replaced: it may be all that opens a workspace's key.
    """
    path = private(state / "device") / "keys.json"
    if not path.exists():
        fresh = Identity(SigningKey.make(), X25519PrivateKey.generate())
        keys = {
            "sign": fresh.signing.private.private_bytes_raw().hex(),
            "wrap": fresh.wrapping.private_bytes_raw().hex(),
        }
        write_private(path, canonical({"schema": "twofold-device-1"} | keys))
        return fresh
    try:
        held = json.loads(path.read_bytes())
        if held.keys() != {"schema", "sign", "wrap"} or held["schema"] != "twofold-device-1":
            raise BadInputError("unknown schema")
        sign, opener = (hex_bytes(held[name], 32, "a private key") for name in ("sign", "wrap"))
    except (ValueError, AttributeError, BadInputError) as off:
        raise DamagedError(
            f"This device's key file {path} cannot be read.",
            safe="It was left as it is.",
            next="Restore it from a copy. To give this device a new identity instead, move the file away and enrol again.",
        ) from off
    return Identity(SigningKey(Ed25519PrivateKey.from_private_bytes(sign)), X25519PrivateKey.from_private_bytes(opener))
