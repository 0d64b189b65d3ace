"""A vault that is read from afar: used before its files are here, whole behind, and then offline; whatever dies or lies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_vault_moving import Machine, read, send, settled, write
from tests.unit.test_vault_store import kill
from twofold.model.errors import ConflictError, DamagedError, TwofoldError, UnreachableError
from twofold.model.generation import SealedFile
from twofold.model.progress import silent
from twofold.vault.afar import RECORD
from twofold.vault.seam import Contents, Keys, OpenVault
from twofold.vault.store import SealedVault, _Open

MIB = 1 << 20
BODY = os.urandom(MIB)


def body(nth: int) -> bytes:
    """What the first device wrote to the MiB of this number."""
    return bytes([nth // 8, nth % 8]) + BODY[2:]


class There:
    """Where the files are. Counts what is read of them; may be away, slow, or lie."""

    def __init__(self, path: Path) -> None:
        self.path, self.sent, self.away, self.lies, self.slow = path, 0, False, 0, 0.0

    def __call__(self, workspace: str, file: SealedFile, offset: int, length: int) -> bytes:
        assert workspace == "work"
        time.sleep(self.slow)
        if self.away:
            raise UnreachableError("The server does not answer.")
        with (self.path / file.name).open("rb") as whole:
            whole.seek(offset)
            data = whole.read(length)
        self.sent += len(data)
        if self.lies:
            self.lies -= 1
            data = bytes(byte ^ 1 for byte in data)
        return data


class Afar(Machine):
    there: There

    def begin(self, there: There, contents: Contents, keys: bytes) -> None:
        self.there = there
        self.vaults = SealedVault(self.folder / "device", self.folder / "anchors", there)
        self.keys = self.vaults.next_epoch(Keys("work", keys))
        with self.vaults.receiving(self.where):
            self.vaults.adopt(self.where, self.keys, contents, far=True)

    def fill(self) -> None:
        while self.vaults.fill(self.where, silent):
            pass

    def sealed(self) -> list[str]:
        return sorted(path.name for path in self.where.iterdir() if path.name[:2] in ("s-", "p-"))


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Afar]:
    """A device that begins from 24 MiB in three files of another one."""
    first = Machine(tmp_path / "first")
    first.make()
    for round_ in range(3):
        with first.open() as vault:
            for nth in range(8):
                write(vault, bytes([round_, nth]) + BODY[2:], (round_ * 8 + nth) * MIB)
            with vault.reading(None, note="go") as reading:
                send(reading, tmp_path / "there", {})
                contents = reading.contents
    second = Afar(tmp_path / "second")
    second.begin(
        There(tmp_path / "there"), contents, first.vaults.rewrap(first.keys, second.public, allowed=True).wrapped
    )
    yield second


def same(vault: OpenVault, blocks: range = range(24)) -> bool:
    return all(read(vault, MIB, nth * MIB) == body(nth) for nth in blocks)


def test_it_is_used_before_it_is_here_and_then_without_anybody(far: Afar) -> None:
    there = far.there
    assert far.vaults.afar(far.where) is not None
    begun = there.sent
    assert begun < 2 * MIB, "to begin takes the root, and little else"
    with far.open() as vault:
        assert same(vault, range(2))
        write(vault, b"mine" * 1024, 9 * MIB)
        write(vault, b"a part of a block", 17 * MIB + 1000)
        assert there.sent < begun + 5 * MIB
        head = read(vault, 4096, 17 * MIB)
        assert head == body(17)[:1000] + b"a part of a block" + body(17)[1017:4096]
        settled(vault)
        while vault.fill(silent):
            pass
        here = far.sealed()
    assert far.vaults.afar(far.where) is None
    assert not (far.where / RECORD).exists()
    assert not [path for path in far.where.iterdir() if path.suffix in (".far", ".new", ".part")]
    there.away = True
    with far.open() as vault:
        assert same(vault, range(9))
        assert read(vault, 4096, 9 * MIB) == b"mine" * 1024
        assert same(vault, range(18, 24))
    with far.vaults.resting(far.where, far.keys) as rested:
        found = rested.check(True, silent)
        assert [each["lost"]["bytes"] for each in found["devices"]] == [0]
    assert set(here) <= set(far.sealed())


def test_while_the_server_is_away_a_read_waits_and_what_is_written_stays(
    far: Afar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with far.open() as vault:
        assert same(vault, range(1))
        far.there.away = True
        write(vault, b"kept" * 1024, 4 * MIB)
        found: list[bytes] = []
        waiting = threading.Thread(target=lambda: found.append(read(vault, 4096, 12 * MIB)))
        waiting.start()
        waiting.join(1.5)
        assert waiting.is_alive(), "it is no error that the server is away"
        assert read(vault, 4096, 4 * MIB) == b"kept" * 1024, "what is here is not held up"
        assert vault.away() is not None
        far.there.away = False
        waiting.join(10)
        assert found == [body(12)[:4096]]
        assert vault.away() is None
        far.there.away = True
        settled(vault)
    monkeypatch.setattr("twofold.vault.afar._PATIENCE", 0.5)
    with pytest.raises(UnreachableError, match="not on this device yet"):
        far.vaults.fill(far.where, silent)
    far.there.away = False
    far.fill()
    far.there.away = True
    with far.open() as vault:
        assert read(vault, 4096, 4 * MIB) == b"kept" * 1024


def test_what_comes_damaged_is_asked_for_again_and_never_given_out(far: Afar) -> None:
    with far.open() as vault:
        assert same(vault, range(1))
        far.there.lies = 1
        assert same(vault, range(8, 9))
        assert far.there.lies == 0
        settled(vault)
        far.there.lies = 10**6
        with pytest.raises(DamagedError, match="not what was backed up"):
            vault.fill(silent)
        assert far.vaults.afar(far.where) is not None
        with pytest.raises(TwofoldError):
            read(vault, 4096, 20 * MIB)
        far.there.lies = 0


def test_kill_9_at_any_time_loses_nothing(far: Afar) -> None:
    """Of the vault process that serves, and of the one that fills."""
    far.there.slow = 0.03
    for round_ in range(3):
        vault = far.vaults.open(far.where, far.keys, far.runtime)
        assert isinstance(vault, _Open)
        write(vault, bytes([round_]) * 4096, (5 + round_) * MIB)
        filling = threading.Thread(target=_quietly, args=(vault.fill,))
        filling.start()
        time.sleep(0.1 * round_)
        kill(vault)
        filling.join(20)
    filling = threading.Thread(target=_quietly, args=(lambda told: far.vaults.fill(far.where, told),))
    filling.start()
    time.sleep(0.1)
    began = time.monotonic()
    with far.open() as vault:  # who opens it has not to wait for who fills it
        assert time.monotonic() - began < 5
        assert same(vault, range(5))
        filling.join(20)
        with pytest.raises(ConflictError):
            far.vaults.fill(far.where, silent)
        settled(vault)
    far.there.slow = 0.0
    far.fill()
    far.there.away = True
    with far.open() as vault:
        assert [read(vault, 4096, (5 + round_) * MIB) for round_ in range(3)] == [bytes([n]) * 4096 for n in range(3)]
        assert same(vault, range(8, 24))


def test_an_agent_that_died_is_followed_by_one_that_is_asked(far: Afar) -> None:
    vault = far.vaults.open(far.where, far.keys, far.runtime)
    assert isinstance(vault, _Open)
    assert vault._feed is not None
    try:
        vault._feed.close()  # as the kernel closes a dead agent's
        found: list[bytes] = []
        waiting = threading.Thread(target=lambda: found.append(read(vault, 4096, 12 * MIB)))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        again = far.vaults.attach(far.where, far.runtime)
        assert again is not None
        waiting.join(10)
        assert found == [body(12)[:4096]]
    finally:
        vault.close()


def test_what_needs_all_of_it_says_so(far: Afar) -> None:
    with pytest.raises(ConflictError, match="Not all of this workspace"):
        far.vaults.survey(far.where, far.keys)
    with far.vaults.resting(far.where, far.keys) as rested, pytest.raises(ConflictError, match="Not all"):
        rested.check(True, silent)
    with far.vaults.resting(far.where, far.keys) as rested, rested.reading(None, known=()) as reading:
        assert any(file.name not in far.sealed() for file in reading.contents.files)
        with pytest.raises(UnreachableError, match="still with the server"):
            os.close(reading.open(next(file.name for file in reading.contents.files if file.name not in far.sealed())))


def _quietly(fill: object) -> None:
    try:
        while fill(silent):  # type: ignore[operator]
            pass
    except TwofoldError:
        pass
