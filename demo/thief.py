"""Somebody who has all of a lost device, and what lies on another one's disk too: what does its key open?

Nothing of the product is asked: the wraps are opened with the device's private key (RFC 9180, docs/keys.md) and segments are read
as docs/vault-format.md has them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from tests.harness.vaultroot import SLOT, SLOTS, derive

_HEADER = 256


@dataclass
class Loot:
    """By the key epoch that segments name: slots that hold something, and how many of them were opened. `found`: the words that
    were looked for stood in one."""

    there: dict[int, int] = field(default_factory=dict)
    opened: dict[int, int] = field(default_factory=dict)
    found: bool = False


def epoch_keys(device: Path, document: Mapping[str, Any]) -> dict[int, bytes]:
    """All epoch keys that the device key in the folder `device` opens of a `key.wrapped`."""
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex((device / "wrapping.key").read_text().split()[1]))
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    keys: dict[int, bytes] = {}
    for wrap in document["wraps"]:
        info = b"twofold-epoch-key-1\0" + struct.pack("<I", wrap["epoch"]) + document["workspace"].encode()
        try:
            keys[wrap["epoch"]] = suite.decrypt(bytes.fromhex(wrap["sealed"]), private, info)
        except InvalidTag:
            continue  # for another device
    older = {row["epoch"]: row["older"] for row in document["epochs"]}
    for epoch in sorted(older, reverse=True):
        if epoch in keys and older[epoch]:
            opener = AESGCM(derive("twofold 2026 older epoch 1", keys[epoch]))
            bound = struct.pack("<I", epoch) + document["workspace"].encode()
            keys.setdefault(epoch - 1, opener.decrypt(bytes(12), bytes.fromhex(older[epoch]), bound))
    return keys


def read(file: Path) -> dict[str, Any]:
    """A `key.wrapped`."""
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def attempt(vault: Path, keys: Mapping[int, bytes], words: bytes) -> Loot:
    """Try every key on every slot of every segment in a vault's folder, whatever epoch the segment says that it is of."""
    loot, ident = Loot(), (vault / "vault").read_bytes()[40:56]
    for path in sorted(vault.glob("s-" + "?" * 16)):
        data = path.read_bytes()
        if data[:8] != b"TFSEGMT1":
            continue
        _, _, _, number, epoch, _, salt = struct.unpack_from("<II16sQII32s", data, 8)
        made = ident + struct.pack("<Q", number) + salt
        openers = [AESGCM(derive("twofold 2026-11 vault segment key", key + made)) for key in keys.values()]
        for index in range(min(SLOTS, (len(data) - _HEADER) // SLOT)):
            slot = data[_HEADER + SLOT * index : _HEADER + SLOT * (index + 1)]
            if not any(slot):
                continue  # allocated, never written
            loot.there[epoch] = loot.there.get(epoch, 0) + 1
            plain = _opened(openers, slot, struct.pack("<IQ", index, 0), ident)
            if plain is not None:
                loot.opened[epoch] = loot.opened.get(epoch, 0) + 1
                loot.found = loot.found or words in plain
    return loot


def _opened(openers: list[AESGCM], slot: bytes, nonce: bytes, ident: bytes) -> bytes | None:
    for opener in openers:
        try:
            return opener.decrypt(nonce, slot[16:] + slot[:16], ident)
        except InvalidTag:
            continue
    return None
