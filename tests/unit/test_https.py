"""What the client makes of a server that breaks off, against a peer on a real TLS connection that does as it is told."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from twofold.model.errors import ConflictError, RefusedError, TimedOutError, UnreachableError
from twofold.server.certificates import ensure_certificate, make_authority
from twofold.trust.https import NONCE, Https, Place, pinned

HANG_UP = b""
SILENCE = b"nothing comes"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def answer(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


PLAIN_500 = answer("500 Internal Server Error", b"Internal server error")
UNKNOWN = answer("401 Unauthorized", b'{"error": {"code": "refused", "happened": "Sign in first."}}')
CONFLICT = answer("409 Conflict", b'{"error": {"code": "conflict", "happened": "Another holds it."}}')


@contextmanager
def peer(folder: Path, script: Sequence[bytes], timeout: float = 10) -> Iterator[tuple[Https, list[bytes]]]:
    """Each request is answered with the script's next bytes; HANG_UP closes the connection after the request was read."""
    make_authority(folder, "Acme")
    ensure_certificate(folder, ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    left, read = list(script), list[bytes]()

    def converse(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_side=True) as line:
            line.settimeout(10)
            while left and (request := line.recv(65536)):
                read.append(request)
                told = left.pop(0)
                if told == HANG_UP:
                    return
                if told == SILENCE:
                    line.recv(1)  # until the client gives up
                    return
                line.sendall(told)

    def serve() -> None:
        while left:
            converse(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port, authority = listener.getsockname()[1], (folder / "authority.der").read_bytes()
        client = pinned(Place("localhost", port), authority, timeout=timeout)
        yield client, read
        client.close()
        thread.join(10)
    assert not left, "the client asked less often than the script says"


def test_a_status_without_our_words_is_a_server_that_is_not_there(tmp_path: Path) -> None:
    with peer(tmp_path, [PLAIN_500]) as (client, _), pytest.raises(UnreachableError, match="status 500"):
        client.request("GET", "/")


def test_our_words_are_believed(tmp_path: Path) -> None:
    with peer(tmp_path, [CONFLICT]) as (client, _), pytest.raises(ConflictError, match="Another holds it"):
        client.request("GET", "/")


def test_whom_the_server_does_not_know_it_refuses(tmp_path: Path) -> None:
    with peer(tmp_path, [UNKNOWN]) as (client, _), pytest.raises(RefusedError, match="Sign in first"):
        client.request("GET", "/")


def test_a_kept_connection_that_was_closed_is_opened_again(tmp_path: Path) -> None:
    with peer(tmp_path, [OK, HANG_UP, OK]) as (client, read):
        client.request("GET", "/first")
        assert client.request("GET", "/second").body == b"{}"
    assert [request.split()[1] for request in read] == [b"/first", b"/second", b"/second"]


def test_a_request_that_arrived_before_the_line_broke_is_not_called_refused(tmp_path: Path) -> None:
    with peer(tmp_path, [OK, HANG_UP, UNKNOWN, UNKNOWN]) as (client, _):
        client.request("GET", "/first")
        with pytest.raises(UnreachableError):
            client.request("POST", "/second", headers={NONCE: "0" * 32})
        with pytest.raises(RefusedError):  # on the connection that is open now
            client.request("POST", "/third", headers={NONCE: "1" * 32})


def test_an_unsigned_request_that_is_refused_was_refused(tmp_path: Path) -> None:
    with peer(tmp_path, [OK, HANG_UP, UNKNOWN]) as (client, _):
        client.request("GET", "/first")
        with pytest.raises(RefusedError):
            client.request("POST", "/login")


@pytest.mark.parametrize("before", [[], [OK]], ids=["fresh", "kept"])
def test_a_line_that_went_dead_is_a_server_that_does_not_answer(tmp_path: Path, before: list[bytes]) -> None:
    """A pulled cable: nothing is refused, nothing closed; also on a connection that has worked before."""
    with peer(tmp_path, [*before, SILENCE], timeout=0.5) as (client, _):
        for _ in before:
            client.request("GET", "/first")
        with pytest.raises(TimedOutError):
            client.request("GET", "/second")
