"""The guest's sound on the person's sound system: PCM through a pipe to the player that is there."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from jeepney import Message

from twofold.display.wire import Wire, body, member
from twofold.model.errors import BadInputError
from twofold.platform.run import environment, spawn

_PIPE: Final = 16384  # bytes in flight: 85 ms of 48 kHz stereo; what does not fit is dropped, never queued up
_SESSION: Final = ("XDG_RUNTIME_DIR", "PULSE_SERVER", "PULSE_COOKIE", "PIPEWIRE_REMOTE", "DBUS_SESSION_BUS_ADDRESS")
_IGNORED: Final = frozenset({"SetVolume"})


@dataclass(frozen=True)
class Form:
    """`sample` in the players' own words ("s16le"), `rate` in Hz."""

    sample: str
    rate: int
    channels: int


def form(bits: int, signed: bool, floating: bool, rate: int, channels: int, big: bool) -> Form:
    """What `Init` announces.

    Raises:
        BadInputError: no such sound exists.
    """
    names = {(8, False): "u8", (16, True): "s16", (32, True): "s32"}
    name = "float32" if floating and bits == 32 else names.get((bits, signed))
    if name is None or not 8000 <= rate <= 192_000 or not 1 <= channels <= 8:
        raise BadInputError("The machine announced a sound that cannot be played.")
    return Form(name if name == "u8" else name + ("be" if big else "le"), rate, channels)


def player(wanted: Form) -> list[str] | None:
    """The command that plays raw sound from its standard input; None where no player is installed."""
    path = environment()["PATH"]
    if shutil.which("pacat", path=path):
        return ["pacat", "--playback", f"--format={wanted.sample}", f"--rate={wanted.rate}",
                f"--channels={wanted.channels}", "--latency-msec=60", "--client-name=Twofold", "--stream-name=Work"]  # fmt: skip
    if shutil.which("pw-cat", path=path):
        sample = {"float32le": "f32", "s16le": "s16", "s32le": "s32", "u8": "u8"}.get(wanted.sample, "s16")
        return ["pw-cat", "--playback", "--raw", f"--format={sample}", f"--rate={wanted.rate}",
                f"--channels={wanted.channels}", "--latency=60ms", "-"]  # fmt: skip
    if shutil.which("aplay", path=path):
        sample = wanted.sample.replace("float32", "float_").upper().replace("LE", "_LE").replace("BE", "_BE")
        return ["aplay", "-q", "-t", "raw", "-f", sample.replace("__", "_"), "-r", str(wanted.rate),
                "-c", str(wanted.channels)]  # fmt: skip
    return None


class Sound:
    """Serves one AudioOutListener wire: streams by id, at most four, each with a player while the guest plays."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._forms: dict[int, Form] = {}
        self._players: dict[int, subprocess.Popen[bytes]] = {}
        self.dropped = 0

    def close(self) -> None:
        for stream in list(self._players):
            self._silence(stream)
        self.wire.close()

    def handle(self, message: Message) -> None:
        name = member(message)
        if name == "Init":
            self._init(*body(message, "tybbuyuub"))
        elif name == "Fini":
            self._silence(body(message, "t")[0])
            self._forms.pop(body(message, "t")[0], None)
        elif name == "SetEnabled":
            stream, on = body(message, "tb")
            (self._sound if on else self._silence)(stream)
        elif name == "Write":
            self._write(*body(message, "tay"))
        elif name in ("Get", "GetAll"):
            if name == "GetAll":
                self.wire.answer(message, "a{sv}", {})
            else:
                self.wire.refuse(message)
            return
        elif name not in _IGNORED:
            self.wire.refuse(message)
            return
        self.wire.answer(message)

    def _init(self, stream: int, bits: int, signed: bool, floating: bool, *rest: Any) -> None:
        rate, channels, _frame, _second, big = rest
        if len(self._forms) >= 4 and stream not in self._forms:
            raise BadInputError("The machine opened more sound streams than it has devices.")
        self._silence(stream)
        self._forms[stream] = form(bits, signed, floating, rate, channels, big)

    def _sound(self, stream: int) -> None:
        wanted = self._forms.get(stream)
        command = player(wanted) if wanted and stream not in self._players else None
        if command is None:
            return
        session = {name: os.environ[name] for name in _SESSION if name in os.environ}
        process = spawn(command, env=session, stdin=subprocess.PIPE)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
        self._players[stream] = process

    def _silence(self, stream: int) -> None:
        process = self._players.pop(stream, None)
        if process is None or process.stdin is None:
            return
        process.stdin.close()  # the player plays what it has and ends
        _Reaper.add(process)

    def _write(self, stream: int, untrusted_samples: bytes) -> None:
        process = self._players.get(stream)
        if process is None or process.stdin is None:
            return
        try:
            wrote = os.write(process.stdin.fileno(), untrusted_samples)
            self.dropped += len(untrusted_samples) - wrote
        except BlockingIOError:
            self.dropped += len(untrusted_samples)
        except BrokenPipeError:
            self._silence(stream)


class _Reaper:
    """Players that were told to end and have not been waited for yet."""

    _ending: Final[list[subprocess.Popen[bytes]]] = []

    @classmethod
    def add(cls, process: subprocess.Popen[bytes]) -> None:
        cls._ending.append(process)
        cls._ending[:] = [each for each in cls._ending if each.poll() is None]
