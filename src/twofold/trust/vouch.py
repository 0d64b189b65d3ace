"""By what a machine knows another machine's wrapping key as the company's, though the server alone has brought it.

Invitations carry the company's reading key, which no server has. A machine that was invited so can say which wrapping key is
its own under that key; a server can pass that on and can't make one up (docs/decisions/0020-nodes.md).
"""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twofold.model.canonical import canonical

DEVICE, NODE = "device", "node"


def vouch(reading: bytes, kind: str, user: str, device: str, wrap_public: str) -> str:
    """64 hex digits. `kind` is `DEVICE`, of that `user`, or `NODE`, of nobody (""); `device` is its id and `wrap_public` its
    X25519 key, both in hex."""
    key = HKDF(SHA256(), 32, None, b"twofold vouch 1").derive(reading)
    said = {"kind": kind, "user": user, "device": device, "wrap_public": wrap_public}
    return hmac.digest(key, canonical(said), "sha256").hex()


def holds(reading: bytes, untrusted_vouch: object, kind: str, user: str, device: str, wrap_public: str) -> bool:
    """Whether it was made by somebody who has the reading key, for exactly this."""
    if type(untrusted_vouch) is not str or not untrusted_vouch.isascii():
        return False
    return hmac.compare_digest(untrusted_vouch, vouch(reading, kind, user, device, wrap_public))
