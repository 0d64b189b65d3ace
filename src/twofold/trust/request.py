"""How a device proves that a request is its own: a signature over server, method, path, body digest, time and a nonce.

Headers: `Twofold-Device` (hex id), `Twofold-Time` (Unix seconds), `Twofold-Nonce` (32 hex digits), `Twofold-Signature` (base64).
The server's key id is part of what is signed, so that one server cannot pass a device's request on to another; it is empty in
the one request that comes before the device knows it, enrolment.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass

from twofold.model.canonical import canonical
from twofold.model.errors import RefusedError
from twofold.trust.keys import SigningKey, VerifyKey
from twofold.trust.signed import Context, message

WINDOW = 120  # seconds that two clocks may differ; a nonce is remembered for longer than it can be played again


@dataclass(frozen=True)
class Claim:
    """What a request says about its sender, checked for shape alone."""

    device: str
    time: int
    nonce: str
    signature: bytes


def headers(key: SigningKey, server: str, method: str, path: str, body: bytes) -> dict[str, str]:
    """The headers that sign one request. `path` is all of it, from the slash to the end of the query."""
    now, nonce = int(time.time()), secrets.token_hex(16)
    signature = key.sign(_signed(server, method, path, body, now, nonce))
    return {
        "Twofold-Device": key.id,
        "Twofold-Time": str(now),
        "Twofold-Nonce": nonce,
        "Twofold-Signature": base64.b64encode(signature).decode(),
    }


def claim(untrusted_headers: Mapping[str, str]) -> Claim:
    """Read the headers of a signed request (names in small letters).

    Raises:
        RefusedError: one is missing or malformed.
    """
    device, when, nonce, signature = (
        untrusted_headers.get(f"twofold-{name}", "") for name in ("device", "time", "nonce", "signature")
    )
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    digits = when.isascii() and when.isdigit() and len(when) <= 12
    if not (_hex(device, 64) and digits and _hex(nonce, 32) and len(raw) == 64):
        raise RefusedError("The request is not signed.")
    return Claim(device, int(when), nonce, raw)


def check(who: Claim, key: VerifyKey, server: str, method: str, path: str, body: bytes, now: float) -> None:
    """Check a claim. That its nonce is new is the caller's to check, afterwards.

    Raises:
        RefusedError: another key, another request, or too far from `now` (Unix seconds).
    """
    fresh = abs(now - who.time) <= WINDOW
    signed = _signed(server, method, path, body, who.time, who.nonce)
    if who.device != key.id or not key.verifies(who.signature, signed) or not fresh:
        raise RefusedError("The request's signature does not hold.")


def _signed(server: str, method: str, path: str, body: bytes, when: int, nonce: str) -> bytes:
    digest = hashlib.sha256(body).hexdigest()
    fields = {"server": server, "method": method, "path": path, "body": digest, "time": when, "nonce": nonce}
    return message(Context.REQUEST, canonical(fields))


def _hex(text: str, size: int) -> bool:
    return len(text) == size and not text.strip("0123456789abcdef")
