"""The pinned way to a server: HTTPS from the standard library, trusting one authority and nothing else on this machine."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import (
    BadInputError,
    RefusedError,
    TimedOutError,
    TwofoldError,
    UnknownError,
    UnreachableError,
    from_wire,
)
from twofold.trust.publisher import Anchor

API = "/api/v1"
NONCE = "Twofold-Nonce"  # of a signed request
Body = (
    bytes | Callable[[], Iterable[bytes]]
)  # all of it, or what makes it anew for each try; its length is a header then
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*\.?")
_CODE = re.compile(r"[A-Z2-7]{26}")
_PIN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Place:
    """Where a server is. `host` is a name or a bare address."""

    host: str
    port: int

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}"


@dataclass(frozen=True)
class Invitation:
    """What an invitation's URL says: `https://host:port/#CODE.PIN.ROOT.READ`. What follows # is never sent by a browser: no
    server sees `anchor`, without which the device believes no image and opens none."""

    place: Place
    code: str
    pin: str
    anchor: Anchor

    @property
    def url(self) -> str:
        return f"{self.place.origin}/#{self.code}.{self.pin}.{self.anchor.root}.{self.anchor.reading.hex()}"


def place(untrusted_url: str) -> Place:
    """Validate a server's address, `https://host[:port][/]` and nothing more.

    Raises:
        BadInputError: anything else.
    """
    found, rest = _split(untrusted_url)
    if rest:
        raise _bad_url()
    return found


def invitation(untrusted_url: str) -> Invitation:
    """Validate an invitation's URL.

    Raises:
        BadInputError: anything but `https://host[:port]/#CODE.PIN.ROOT.READ`.
    """
    found, rest = _split(untrusted_url)
    code, *digests = rest.split(".")
    if not _CODE.fullmatch(code) or len(digests) != 3 or not all(_PIN.fullmatch(each) for each in digests):
        raise BadInputError(
            "This is not a whole invitation.",
            safe="Nothing was sent.",
            next="Copy all of it, for example https://work.example.org:8443/#ABC....0123...",
        )
    return Invitation(found, code, digests[0], Anchor(digests[1], bytes.fromhex(digests[2])))


def _split(untrusted_url: str) -> tuple[Place, str]:
    if len(untrusted_url) > 512 or not untrusted_url.isascii() or not untrusted_url.isprintable():
        raise _bad_url()
    try:
        parts = urllib.parse.urlsplit(untrusted_url)
        host, port = parts.hostname or "", parts.port
    except ValueError as off:
        raise _bad_url() from off
    if (
        parts.scheme != "https"
        or parts.path not in ("", "/")
        or parts.query
        or "@" in parts.netloc
        or "\\" in untrusted_url
    ):
        raise _bad_url()
    if not _address(host) and not _HOST.fullmatch(host):
        raise _bad_url()
    return Place(host, 443 if port is None else port), parts.fragment


def _address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def _bad_url() -> BadInputError:
    return BadInputError(
        "This is not a server's address.", safe="Nothing was sent.", next="It looks like https://work.example.org:8443/"
    )


def pin(authority: bytes) -> str:
    """What an invitation says about an authority's certificate (DER): its SHA-256 in hex."""
    return hashlib.sha256(authority).hexdigest()


def fetch_authority(where: Place, expected: str, timeout: float = 10) -> bytes:
    """Ask a server for its authority's certificate and return it (DER) if its pin is `expected`.

    The connection itself proves nothing: only the digest does, and nothing secret is sent before it is checked.

    Raises:
        RefusedError: it is another authority. UnreachableError, TimedOutError: no answer.
    """
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    client = Https(where, anyone, timeout)
    try:
        untrusted_der = client.request("GET", f"{API}/authority", limit=8192).body
    finally:
        client.close()
    if pin(untrusted_der) != expected:
        raise RefusedError(
            f"{where.origin} is not the server that the invitation names, or somebody stands in between.",
            safe="Nothing was sent to it.",
            next="Try from another network, or ask for a new invitation.",
        )
    return untrusted_der


def pinned(where: Place, authority: bytes, timeout: float = 30) -> Https:
    """A client that accepts only certificates of this authority (DER)."""
    return Https(where, context(authority), timeout)


def context(authority: bytes) -> ssl.SSLContext:
    """TLS that trusts one authority (DER) and nothing else on this machine."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(cadata=authority)
    return made


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """
        Raises:
            BadInputError: the answer is not a JSON object.
        """
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError) as off:
            raise BadInputError("The server's answer cannot be read.") from off
        if not isinstance(document, dict):
            raise BadInputError("The server's answer cannot be read.")
        return document


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    body: Body
    headers: dict[str, str]
    limit: int  # bytes of the answer
    seconds: float


class Https:
    """Requests to one place over connections that are kept open; any thread may call it."""

    def __init__(self, where: Place, context: ssl.SSLContext, timeout: float) -> None:
        self.where = where
        self._context = context
        self._timeout = timeout
        self._idle: list[http.client.HTTPSConnection] = []
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        path: str,
        body: Body = b"",
        headers: Mapping[str, str] | None = None,
        limit: int = 8 << 20,
        patience: float | None = None,
    ) -> Answer:
        """One request and its answer of at most `limit` bytes; `patience` in seconds where that takes longer than usual.

        Raises:
            UnreachableError, TimedOutError: no whole answer came. What the request asked for may have happened.
            RefusedError: the server's certificate is not of the pinned authority.
            TwofoldError: of the kind that the server says.
        """
        seconds = self._timeout if patience is None else patience
        asked = _Request(method, path, body, dict(headers or {}), limit, seconds)
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        try:
            return self._kept_or_fresh(kept, asked)
        except ssl.SSLCertVerificationError as off:
            raise RefusedError(
                f"{self.where.origin} does not prove to be the server that was pinned.",
                safe="Nothing was sent to it.",
                next="Try from another network. If your company set up a new server, ask for a new invitation.",
            ) from off
        except TimeoutError as late:
            raise TimedOutError(
                f"{self.where.origin} did not answer in time.",
                safe="Nothing on this device is lost.",
                next="Try again later.",
            ) from late
        except (OSError, http.client.HTTPException) as away:
            raise self._away() from away

    def _kept_or_fresh(self, kept: http.client.HTTPSConnection | None, asked: _Request) -> Answer:
        if kept is not None:
            try:
                return self._exchange(kept, asked)
            except (
                http.client.RemoteDisconnected,
                ConnectionResetError,
                BrokenPipeError,
                http.client.CannotSendRequest,
                ssl.SSLEOFError,
                ssl.SSLZeroReturnError,
            ):
                # The server closes idle connections whenever it likes. A signed request carries a nonce, so that one which
                # did arrive is refused rather than done twice (below).
                kept.close()
        fresh = http.client.HTTPSConnection(
            self.where.host, self.where.port, timeout=self._timeout, context=self._context
        )
        try:
            return self._exchange(fresh, asked)
        except UnknownError as twice:
            if kept is None or NONCE not in asked.headers:
                raise
            raise self._away() from twice  # whoever asks may be known, and this have arrived before: the next one tells

    def _away(self) -> UnreachableError:
        return UnreachableError(
            f"{self.where.origin} cannot be reached.",
            safe="Nothing on this device is lost.",
            next="Check the network and that the server runs, then try again.",
        )

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(self, connection: http.client.HTTPSConnection, asked: _Request) -> Answer:
        connection.timeout = asked.seconds
        if connection.sock is not None:
            connection.sock.settimeout(asked.seconds)
        try:
            body = asked.body() if callable(asked.body) else asked.body or None
            connection.request(asked.method, asked.path, body, asked.headers)
            response = connection.getresponse()
            untrusted_body = response.read(asked.limit + 1)
        except BaseException:
            connection.close()
            raise
        if len(untrusted_body) > asked.limit or not response.isclosed():
            connection.close()
            raise BadInputError(f"The server's answer is longer than {asked.limit} bytes.")
        if response.will_close:
            connection.close()
        else:
            with self._lock:
                self._idle.append(connection)
        if not 200 <= response.status < 300:
            raise _error(response.status, untrusted_body)
        return Answer(response.status, untrusted_body)


def _error(status: int, untrusted_body: bytes) -> TwofoldError:
    try:
        document = json.loads(untrusted_body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and "error" in document:
        told = from_wire(document["error"])
        return UnknownError(told.happened, safe=told.safe, next=told.next) if status == 401 else told
    if status >= 500:  # not our application's words: a server that is just ending, or a proxy without one behind it
        return UnreachableError(
            f"The server answered with status {status}.",
            safe="Nothing on this device is lost.",
            next="Try again; if it stays so, look at the server's log.",
        )
    return TwofoldError(f"The server answered with status {status}.", next="Look at the server's log.")
