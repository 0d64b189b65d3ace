"""What carries the phone's TPM (recipes/handset/overlay/usr/lib/handset/chip), between a proxy's two ends and a real swtpm."""

from __future__ import annotations

import contextlib
import runpy
import select
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from phone.handset import chip as switched_on
from tests.harness.inside.chip import Chip, RefusedError

PROGRAM = Path(__file__).resolve().parents[2] / "recipes/handset/overlay/usr/lib/handset/chip"
SUCCESS, LOCALITY = 0, 0x907
pytestmark = pytest.mark.skipif(shutil.which("swtpm") is None, reason="no swtpm here")


class Kernel:
    """The kernel's end of its proxy: one command at a time, each in one piece."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.chip = Chip(end.fileno())

    def ask(self, code: int, rest: bytes = b"") -> tuple[int, bytes]:
        """A command without sessions; returns the answer's code and what follows its header."""
        self._end.send(struct.pack(">HII", 0x8001, 10 + len(rest), code) + rest)
        answer = self._end.recv(4096)
        tag, size, result = struct.unpack_from(">HII", answer)
        assert size == len(answer) and tag in (0x8001, 0x8002)
        return result, answer[10:]

    def random(self) -> bytes:
        result, rest = self.ask(0x17B, struct.pack(">H", 16))  # TPM2_GetRandom
        assert result == SUCCESS and rest[:2] == b"\0\x10"
        return rest[2:]


@contextlib.contextmanager
def carried(state: Path, before: Callable[[socket.socket], None] = lambda port: None) -> Iterator[Kernel]:
    """A phone switched on with the chip in `state`. `before`: what happened on the port until the carrier came."""
    program: dict[str, Any] = runpy.run_path(str(PROGRAM))
    with contextlib.ExitStack() as undo:
        port = switched_on(state, undo)
        before(port)
        ours, theirs = (undo.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        program["in_step"](port.fileno())
        carrier = threading.Thread(target=program["carry"], args=(theirs.fileno(), port.fileno()))
        carrier.start()
        undo.callback(carrier.join, 20)
        undo.callback(ours.shutdown, socket.SHUT_RDWR)
        yield Kernel(ours)


def test_a_chip_that_is_switched_on_answers_without_a_start_of_the_systems_own(tmp_path: Path) -> None:
    with carried(tmp_path / "tpm") as kernel:
        assert kernel.random() != kernel.random()
        assert kernel.ask(0x144, b"\0\0")[0] == 0x100, "TPM2_Startup again: the firmware did that"


def test_an_answer_that_nobody_waited_for_is_nobodys(tmp_path: Path) -> None:
    def left(port: socket.socket) -> None:
        port.sendall(struct.pack(">HIIH", 0x8001, 12, 0x17B, 32))  # GetRandom, and the one who asked is gone
        assert select.select([port], [], [], 20)[0]

    with carried(tmp_path / "tpm", left) as kernel:
        assert len(kernel.random()) == 16


def test_the_system_has_one_locality_which_the_chip_is_not_asked_for(tmp_path: Path) -> None:
    with carried(tmp_path / "tpm") as kernel:
        assert kernel.ask(0x20001000, b"\0") == (SUCCESS, b"")
        assert kernel.ask(0x20001000, b"\1") == (LOCALITY, b"")
        assert len(kernel.random()) == 16


def test_a_command_that_the_chip_does_not_know_is_its_to_refuse(tmp_path: Path) -> None:
    with carried(tmp_path / "tpm") as kernel:
        assert kernel.ask(0x1FF)[0] == 0x143  # TPM_RC_COMMAND_CODE
        assert len(kernel.random()) == 16


def test_what_a_chip_keeps_outlives_the_power_and_is_no_other_chips(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    with carried(tmp_path / "one/tpm") as kernel:
        sealed = kernel.chip.seal(b"a secret")
        assert [kernel.chip.count(), kernel.chip.count()] == [1, 2]
    with carried(tmp_path / "one/tpm") as kernel:
        assert (kernel.chip.unseal(sealed), kernel.chip.count()) == (b"a secret", 3)
    with carried(tmp_path / "other/tpm") as kernel:
        with pytest.raises(RefusedError, match="0x1df"):  # TPM_RC_INTEGRITY, of the first parameter
            kernel.chip.unseal(sealed)
        assert kernel.chip.count() == 1
