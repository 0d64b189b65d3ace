"""A real server process, killed with SIGKILL between the steps of its work: what it had acknowledged is there, the rest can be
done again, and history is one line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from tests.harness.mold import Forked, Mold
from tests.harness.mortal import SERVER_MODULES, Hand
from tests.unit.company_kit import company
from tests.unit.server_kit import Backend, Local, free_port
from tests.unit.vault_kit import Device, device
from twofold.model.errors import TwofoldError
from twofold.server import audit
from twofold.server.collector import collect
from twofold.server.objects import opened
from twofold.server.tables import Generation, Sealed
from twofold.trust import https, request
from twofold.trust.https import API

# Where the process stops: after this function of that module has done its work, or before it (`-`).
STEPS = [
    "twofold.server.objects:Folder.put-",
    "twofold.server.objects:Folder.put",
    "twofold.server.uploads:_finish",
    "twofold.server.history:_all_here",
    "twofold.server.history:_need",
    "twofold.server.history:_on_line",
    "twofold.server.history:commit",
    "twofold.server.leases:take",
    "twofold.server.leases:leave",
    "twofold.server.audit:record",
]


class Mortal:
    """A server in a process of its own that is killed at a step when it is told so, and can be started again."""

    def __init__(self, local: Local, where: str, folder: Path, mold: Mold) -> None:
        self.local, self.where, self.log, self._mold = local, where, folder / "log", mold
        self.hand = Hand(folder / "hand")
        self.hand.__enter__()
        self.port = free_port()
        self.process: Forked
        self.start()

    def arm(self) -> None:
        """The next time that it comes there it dies: nothing is flushed, closed or rolled back by anybody."""
        self.hand.begin(f"{self.where} #1", lambda: self.process.kill())

    def start(self) -> None:
        words = [str(self.hand.path), "server", str(self.local.home.folder), str(self.port), self.where]
        self.process = self._mold.start(words, os.environ, self.log)
        self.client = https.pinned(https.Place("127.0.0.1", self.port), self.local.home.authority, timeout=20)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.request("GET", f"{API}/authority")
                return
            except TwofoldError:
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def end(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(10)
        self.hand.__exit__(None, None, None)


class Wire:
    """What a `Device` of tests speaks to: the real process, started again when it has died."""

    def __init__(self, mortal: Mortal) -> None:
        self.mortal, self.home, self.deaths = mortal, mortal.local.home, 0

    def device(self, who: Any, method: str, what: str, body: Any = None) -> Any:
        from twofold.model.canonical import canonical

        sent, path = b"" if body is None else canonical(body), f"{API}/device/{what}"
        kind = {"Content-Type": "application/json"} if body is not None else {}
        return self._send(
            lambda: request.headers(who.signing, self.home.signing.id, method, path, sent) | kind, method, path, sent
        )

    def raw(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> Any:
        return self._send(lambda: headers, method, path, content)

    def _send(self, headers: Any, method: str, path: str, sent: bytes) -> Any:
        try:
            answer = self.mortal.client.request(method, path, sent, headers())
            return Answer(answer.status, answer)
        except TwofoldError as error:
            if self.mortal.process.poll() is None and error.code not in ("unreachable", "timed-out"):
                return Answer({"conflict": 409}.get(error.code, 400), None, str(error))
            self.mortal.process.wait(10)
            self.deaths += 1
            self.mortal.client.close()
            self.mortal.start()
            raise DeadError from error


class DeadError(Exception):
    """The server died while it was asked."""


class Answer:
    def __init__(self, status: int, answer: Any, text: str = "") -> None:
        self.status_code, self._answer, self.text = status, answer, text

    def json(self) -> Any:
        return self._answer.json()


def again(act: Any) -> Any:
    """Do it, and once more where the server died of it: that is what an agent does."""
    try:
        return act()
    except DeadError:
        return act()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    cluster = request.getfixturevalue("cluster") if request.param == "postgresql" else None
    local = company(Backend(cluster), tmp_path_factory.mktemp("kill"))
    yield local
    local.database.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[Mold]:
    with Mold(SERVER_MODULES) as made:
        yield made


# Every step with the one database; with the other those in which the database itself decides what is left.
@pytest.mark.parametrize(
    ("prepared", "where"),
    [("sqlite", step) for step in STEPS]
    + [("postgresql", step) for step in STEPS if step.endswith(("commit", "record"))],
    indirect=["prepared"],
)
def test_killed_anywhere_it_loses_nothing(prepared: Local, where: str, tmp_path: Path, servers: Mold) -> None:
    local = prepared
    mine = device(local, tmp_path / "a", name=where[-50:])
    mortal = Mortal(local, where, tmp_path, servers)
    wire = Wire(mortal)
    mine.server = wire  # type: ignore[assignment]
    try:
        acknowledged = life(mine, mortal)
        assert wire.deaths == 1, "it never came to that step"
    finally:
        mortal.end()
    with local.database.read() as session:
        audit.verify(session)
        rows = {row.id: row for row in session.scalars(select(Generation))}
        for generation in acknowledged:
            assert generation in rows
        heads = [row for row in rows.values() if row.kind == "line" and row.device_id == mine.who.device]
        assert len(heads) == len({row.parent for row in heads}) == 3, "one line, no fork, nothing twice"
        kept = {row.key for row in session.scalars(select(Sealed))}
        for key in kept:
            assert (local.home.folder / "objects" / key).is_file()
    stray = collect(local.home, local.database, opened(local.home.objects), time.time() + 2 * 86400)
    assert stray.files == stray.strays <= 1
    assert local.call("GET", "workspaces/1").json()["device"] == ""


def life(mine: Device, mortal: Mortal) -> list[str]:
    """Check out, back up three times, check in; the server dies at its step's second chance where there is one."""

    def arm(now: bool) -> None:
        if now:
            mortal.arm()

    early = any(name in mortal.where for name in ("take", "record"))
    arm(early)
    assert again(mine.check_out).status_code == 200
    acknowledged = []
    for turn in range(3):
        arm(turn == 1 and not early and "leave" not in mortal.where)
        mine.write(5000)
        again(mine.upload)
        document, head = mine.manifest(), mine.head

        def commit(document: Any = document, head: str = head) -> Any:
            return mine.commit(document, head=head)

        answer = again(commit)
        assert answer.status_code in (200, 201), answer.text
        acknowledged.append(answer.json()["id"])
    arm("leave" in mortal.where)
    body = {"workspace": "work", "token": mine.token, "generation": mine.head}
    assert again(lambda: mine.call("POST", "checkin", body)).status_code == 200
    return acknowledged
