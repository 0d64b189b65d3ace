"""Signed documents: `{"payload": base64 of canonical bytes, "signatures": [{"key": hex id, "sig": base64}]}`.

What is signed is the kind of document and its bytes (DSSE's pre-authentication encoding, so that a lease's signature is never a
command's), and the signature is checked before one byte of the payload is parsed.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
from collections.abc import Iterable
from typing import Any

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, RefusedError
from twofold.trust.keys import SigningKey, VerifyKey

MAX_SIGNATURES = 8


class Context(enum.StrEnum):
    """What a signature is about. One key may sign several kinds; none can stand for another."""

    LEASE = "lease"
    REQUEST = "request"
    GENERATION = "generation"
    COMMAND = "command"
    BACKUP = "backup"


def message(context: Context, payload: bytes) -> bytes:
    """The bytes under a signature: each field with its length before it, so that no two documents share them."""
    kind = context.encode()
    return b"twofold-signed-1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(context: Context, document: Any, *keys: SigningKey) -> dict[str, Any]:
    """Sign `document` (JSON without floats) with each key."""
    payload = canonical(document)
    return {
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"key": key.id, "sig": base64.b64encode(key.sign(message(context, payload))).decode()} for key in keys
        ],
    }


def verify(context: Context, untrusted_document: object, keys: Iterable[VerifyKey]) -> Any:
    """Return the payload, parsed, if one of `keys` signed it as this kind of document. Raises as `verify_by`."""
    return verify_by(context, untrusted_document, keys)[1]


def verify_by(context: Context, untrusted_document: object, keys: Iterable[VerifyKey]) -> tuple[VerifyKey, Any]:
    """Return which of `keys` signed a document (the first that did; what a signature claims counts for nothing) and its payload.

    Raises:
        BadInputError: it is not a signed document, or its payload is not canonical.
        RefusedError: none of `keys` signed it.
    """
    untrusted_payload, signatures = _open(untrusted_document)
    signed = message(context, untrusted_payload)
    signer = next(
        (key for key in keys if any(key.verifies(sig, signed) for name, sig in signatures if name == key.id)), None
    )
    if signer is None:
        raise RefusedError(
            f"The {context} is not signed by a key that this machine trusts.",
            safe="It was not used.",
            next="If your company has changed its keys, ask it for a new invitation.",
        )
    try:
        document = json.loads(untrusted_payload)
        same = canonical(document) == untrusted_payload
    except (ValueError, TypeError, RecursionError) as off:
        raise BadInputError(f"The {context} is signed and cannot be read.") from off
    if not same:
        raise BadInputError(f"The {context} is signed and not in canonical form.")
    return signer, document


def _open(untrusted_document: object) -> tuple[bytes, list[tuple[str, bytes]]]:
    off = BadInputError("This is not a signed document.")
    if not isinstance(untrusted_document, dict) or untrusted_document.keys() != {"payload", "signatures"}:
        raise off
    rows = untrusted_document["signatures"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_SIGNATURES:
        raise off
    signatures = []
    try:
        payload = base64.b64decode(untrusted_document["payload"], validate=True)
        for row in rows:
            if not isinstance(row, dict) or row.keys() != {"key", "sig"} or type(row["key"]) is not str:
                raise off
            signatures.append((row["key"], base64.b64decode(row["sig"], validate=True)))
    except (binascii.Error, TypeError, ValueError) as bad:
        raise off from bad
    return payload, signatures
