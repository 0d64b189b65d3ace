"""The device's identity: a signing key made on the device that never leaves it. The key that opens data keys is the vault
process's alone (docs/keys.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, DamagedError
from twofold.platform.dirs import private
from twofold.trust.keys import SigningKey, VerifyKey, hex_bytes, write_private


@dataclass(frozen=True)
class Identity:
    """`signing` proves who asks."""

    signing: SigningKey

    @property
    def device(self) -> str:
        """The device's id: hex SHA-256 of its Ed25519 public key."""
        return self.signing.id

    @property
    def verify_key(self) -> VerifyKey:
        return self.signing.verify_key


def identity(state: Path) -> Identity:
    """This device's identity in `state`/device/keys.json (mode 0600); made at the first call.

    Raises:
        DamagedError: the file is not what was written. It is never replaced: the server knows this device by it.
    """
    path = private(state / "device") / "keys.json"
    if not path.exists():
        fresh = Identity(SigningKey.make())
        _write(path, fresh)
        return fresh
    try:
        held = json.loads(path.read_bytes())
        if (held["schema"], held.keys()) == ("twofold-device-1", {"schema", "sign", "wrap"}):
            opener = hex_bytes(held["wrap"], 32, "a private key")
        elif (held["schema"], held.keys()) == ("twofold-device-2", {"schema", "sign"}):
            opener = None
        else:
            raise BadInputError("unknown schema")
        found = Identity(SigningKey(Ed25519PrivateKey.from_private_bytes(hex_bytes(held["sign"], 32, "a private key"))))
    except (ValueError, AttributeError, KeyError, TypeError, BadInputError) as off:
        raise DamagedError(
            f"This device's key file {path} cannot be read.",
            safe="It was left as it is.",
            next="Restore it from a copy. To give this device a new identity instead, move the file away and enrol again.",
        ) from off
    if opener is not None:
        # The first form kept the other key here too; from now on the vault process alone reads it.
        write_private(path.with_name("wrapping.key"), b"twofold-wrapping-key-1 %s\n" % opener.hex().encode())
        _write(path, found)
    return found


def _write(path: Path, held: Identity) -> None:
    sign = held.signing.private.private_bytes_raw().hex()
    write_private(path, canonical({"schema": "twofold-device-2", "sign": sign}))
