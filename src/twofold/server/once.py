"""Doing a person's request once: the first answer is kept for a day and given again to whoever brings the same key.

The answer may hold a secret (an invitation's code), so it is sealed with the key itself, of which only a digest is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass
from typing import Annotated, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from fastapi import Depends, Request
from sqlalchemy import delete
from sqlalchemy.orm import Session

from twofold.model.errors import BadInputError, ConflictError
from twofold.server.context import TheCaller
from twofold.server.tables import Done

KEPT = 86400  # seconds
_KEY = re.compile(r"[A-Za-z0-9_-]{22,64}")
_NONCE = bytes(12)  # each key seals one answer


@dataclass(frozen=True)
class Once:
    """`key` is empty where the request asked for nothing of this."""

    key: str
    who: str
    request: str

    def former(self, session: Session) -> Any | None:
        """What the first request with this key was answered.

        Raises:
            ConflictError: that was another request.
        """
        if not self.key:
            return None
        session.execute(delete(Done).where(Done.created < int(time.time()) - KEPT))
        row = session.get(Done, self._digest)
        if row is None:
            return None
        if row.request != self.request:
            raise ConflictError("This Idempotency-Key came with another request.", safe="Nothing was changed.")
        return json.loads(AESGCM(self._seal).decrypt(_NONCE, row.sealed, None))

    def keep(self, session: Session, answer: dict[str, Any]) -> dict[str, Any]:
        """Note an answer in the transaction that does what it says."""
        if self.key:
            sealed = AESGCM(self._seal).encrypt(_NONCE, json.dumps(answer).encode(), None)
            session.add(Done(digest=self._digest, request=self.request, sealed=sealed, created=int(time.time())))
        return answer

    @property
    def _digest(self) -> str:
        return hashlib.sha256(b"twofold-once-1\0" + self.who.encode() + b"\0" + self.key.encode()).hexdigest()

    @property
    def _seal(self) -> bytes:
        return hashlib.sha256(b"twofold-once-seal-1\0" + self.who.encode() + b"\0" + self.key.encode()).digest()


async def _once(request: Request, caller: TheCaller) -> Once:
    key = request.headers.get("idempotency-key", "")
    if key and not _KEY.fullmatch(key):
        raise BadInputError("An Idempotency-Key has 22 to 64 characters of A-Z, a-z, 0-9, _ and -.")
    said = f"{request.method} {request.url.path}?{request.url.query}\n".encode() + (
        await request.body() if key else b""
    )
    return Once(key, caller.actor, hashlib.sha256(said).hexdigest())


TheOnce = Annotated[Once, Depends(_once)]
