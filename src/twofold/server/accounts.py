"""Passwords, bearer tokens and one-time codes: what is stored opens nothing."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections import deque

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from twofold.model.errors import BadInputError, RefusedError

TOKEN_DAYS = 30
MIN_PASSWORD, MAX_PASSWORD = 12, 256
_HASHER = PasswordHasher()
_GATE = threading.BoundedSemaphore(2)  # argon2 takes 64 MiB each: many logins at once must not take the machine
_NOBODY = _HASHER.hash(secrets.token_hex(16))


def password_hash(password: str) -> str:
    """
    Raises:
        BadInputError: too short or absurdly long.
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise BadInputError(f"A password here has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
    with _GATE:
        return _HASHER.hash(password)


def password_holds(stored: str | None, password: str) -> bool:
    """Whether the password is the stored one. Takes as long where there is no such user (`stored` None)."""
    with _GATE:
        try:
            return _HASHER.verify(stored or _NOBODY, password[:MAX_PASSWORD]) and stored is not None
        except (VerificationError, InvalidHashError):
            return False


def new_token() -> str:
    return "tft_" + secrets.token_urlsafe(32)


def new_code() -> str:
    """130 random bits as 26 characters that survive being read aloud."""
    return base64.b32encode(secrets.token_bytes(17)).decode()[:26]


def digest(secret: str) -> str:
    """What is stored of a token or code; they are random and long, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Limiter:
    """Failures by key within a sliding minute. It forgets by itself and never holds more than `most` keys."""

    def __init__(self, failures: int, seconds: float = 60, most: int = 10000) -> None:
        self._failures, self._seconds, self._most = failures, seconds, most
        self._seen: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, key: str) -> None:
        """
        Raises:
            RefusedError: too many failures within the time.
        """
        with self._lock:
            seen = self._fresh(key)
            if seen is not None and len(seen) >= self._failures:
                raise RefusedError("Too many attempts.", next="Wait a minute and try again.")

    def failed(self, key: str) -> None:
        with self._lock:
            if len(self._seen) >= self._most:
                self._seen = {key: seen for key in list(self._seen) if (seen := self._fresh(key))}
            if len(self._seen) >= self._most:
                self._seen.pop(next(iter(self._seen)))
            self._seen.setdefault(key, deque(maxlen=self._failures)).append(time.monotonic())

    def _fresh(self, key: str) -> deque[float] | None:
        seen = self._seen.get(key)
        while seen and time.monotonic() - seen[0] > self._seconds:
            seen.popleft()
        return seen
