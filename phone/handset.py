"""One emulated phone: 64-bit Arm with a hypervisor mode (EL2), a portrait touch screen, power and volume keys, network, storage,
a TPM. It is driven as a person would: fingers, keys, and photographs of its own screen.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twofold.image.build import Built
from twofold.platform.run import find, run, spawn

Picture = NDArray[np.uint8]
WIDTH, HEIGHT = 540, 1170  # pixels, portrait
MEMORY = 4096  # MiB: its own system, and a business VM in it
UPRIGHT, LEFT_UP, RIGHT_UP = "normal", "left-up", "right-up"  # how it is held: iio-sensor-proxy's words
POWER, LOUDER, SOFTER = "power", "volumeup", "volumedown"
_KEYS = {
    " ": "spc",
    "\n": "ret",
    "-": "minus",
    "=": "equal",
    "/": "slash",
    ".": "dot",
    ",": "comma",
    ";": "semicolon",
    "'": "apostrophe",
}  # fmt: skip - QEMU's names
_SHIFTED = dict(zip('!@#$%^&*()_+:"<>?', "1234567890-=;',./", strict=True))
_RANGE = 0x7FFF  # QEMU's axes, whatever the screen's size
_QUARTERS = {UPRIGHT: 0, LEFT_UP: -1, RIGHT_UP: 1}  # by which its owner sees the panel turned, against the clock
_FRAME = 1 / 60  # seconds between two places of a moving finger


class NeverSeenError(AssertionError):
    """What was waited for did not come; the message names the last photograph."""


@dataclass(frozen=True)
class Parts:
    """What a phone is started from. `built` is the recipe `handset`'s image; `software` an erofs with Twofold, or None; with
    `inspect` tests may `look` inside."""

    built: Built
    software: Path | None = None
    face: str = "labwc"
    inspect: bool = False


class Handset:
    """A running phone. Places are pixels of the screen as its owner sees it, however it is held; times seconds since power-on."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], born: float, sensor: socket.socket) -> None:
        self.folder, self.process, self.born = folder, process, born
        self.held, self._sensor = UPRIGHT, sensor
        self._qmp_socket = _connected(folder / "qmp", process)
        self._qmp = self._qmp_socket.makefile("rwb", buffering=0)
        self._qmp.readline()
        self.qmp("qmp_capabilities")
        self._port: socket.socket | None = None

    # What a person does

    def down(self, x: float, y: float, finger: int = 0) -> None:
        """Put a finger on the glass."""
        self._send([_touch("begin", finger, finger + 1), *self._places(x, y, finger), *_contact(finger, down=True)])

    def move(self, x: float, y: float, finger: int = 0) -> None:
        self._send([_touch("update", finger, finger + 1), *self._places(x, y, finger)])

    def up(self, finger: int = 0) -> None:
        self._send([_touch("end", finger, -1), *_contact(finger, down=False)])

    def tap(self, x: float, y: float, held: float = 0.1) -> None:
        self.down(x, y)
        time.sleep(held)
        self.up()

    def swipe(
        self, start: tuple[float, float], end: tuple[float, float], seconds: float = 0.3, fingers: int = 1
    ) -> None:
        """Move fingers, 80 pixels apart, from one place to another."""
        steps = max(2, round(seconds / _FRAME))
        for finger in range(fingers):
            self.down(start[0] + 80 * finger, start[1], finger)
        for step in range(1, steps + 1):
            time.sleep(_FRAME)
            part = step / steps
            for finger in range(fingers):
                x, y = (a + (b - a) * part for a, b in zip(start, end, strict=True))
                self.move(x + 80 * finger, y, finger)
        for finger in range(fingers):
            self.up(finger)

    def press(self, key: str, held: float = 0.1) -> None:
        """Press and let go a key by QEMU's name: LOUDER, SOFTER, or POWER, which is a line of its own as on a phone."""
        if key == POWER:
            self.qmp("system_powerdown")  # QEMU pulses the GPIO line that the key is on
            return
        self.key(key, down=True)
        time.sleep(held)
        self.key(key, down=False)

    def turn(self, held: str) -> None:
        """Hold it another way: UPRIGHT, or on its side with one edge up. Its sensor says so; the picture follows, if it does."""
        self._sensor.sendall(held.encode() + b"\n")
        self.held = held

    @property
    def size(self) -> tuple[int, int]:
        """The screen's width and height as it is held."""
        return (WIDTH, HEIGHT) if self.held == UPRIGHT else (HEIGHT, WIDTH)

    def key(self, key: str, *, down: bool) -> None:
        """Hold a key, or let it go."""
        self._send([{"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": key}}}])

    def type(self, text: str, each: float = 0.03) -> None:
        """Type on a keyboard that is plugged in (US layout), `each` seconds a key; a new line is Return."""
        for character in text:
            upper = character in _SHIFTED or character.isupper()
            plain = _SHIFTED.get(character, character.lower())
            name = _KEYS.get(plain, plain)
            for key, down in [("shift", True)] * upper + [(name, True), (name, False)] + [("shift", False)] * upper:
                self.key(key, down=down)
            time.sleep(each)

    # What a person sees

    def photograph(self) -> Picture:
        """The phone's screen as it is held: RGB, height by width."""
        path = self.folder / "screen.ppm"
        self.qmp("screendump", filename=str(path), format="ppm")
        # Netpbm's P6: its size in text, then the pixels. Quicker than a PNG by far: a bench looks every few milliseconds.
        data = path.read_bytes()
        size = re.match(rb"P6\s(\d+)\s(\d+)\s255\s", data)
        assert size is not None, data[:20]
        panel = np.frombuffer(data, np.uint8, offset=size.end()).reshape(int(size[2]), int(size[1]), 3)
        return upright(panel, self.held)

    def keep(self, path: Path) -> None:
        """Photograph to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.photograph()).save(path)

    def until(self, seen: Callable[[Picture], bool], seconds: float, what: str = "it") -> float:
        """Wait until a photograph shows something; returns the time since power-on.

        Raises:
            NeverSeenError: it did not within `seconds`; the photograph is kept.
        """
        deadline = time.monotonic() + seconds
        while True:
            picture = self.photograph()
            if picture.shape[1::-1] == self.size and seen(picture):
                return self.age
            if time.monotonic() > deadline or self.process.poll() is not None:
                path = self.folder / "never.png"
                Image.fromarray(picture).save(path)
                raise NeverSeenError(f"the phone never showed {what}: {path}")
            time.sleep(0.1)

    def changed(self, before: Picture, seconds: float, share: float = 0.02) -> float:
        """Wait until at least `share` of the screen is another than on the photograph `before`."""
        return self.until(lambda now: differing(before, now) >= share, seconds, "a change")

    def keep_state(self, folder: Path) -> None:
        """Put down all of the phone, so that `switched_on(..., state=folder)` goes on from here; it goes on itself."""
        folder.mkdir(parents=True, exist_ok=True)
        self.qmp("stop")
        self.qmp("migrate", uri=f"file:{folder / 'memory'}")
        while (status := self.qmp("query-migrate")["status"]) not in ("completed", "failed"):
            time.sleep(0.2)
        if status == "failed":
            raise RuntimeError(self.qmp("query-migrate"))
        _copy(self.folder / "storage.raw", folder / "storage.raw")
        _copy_chip(self.folder / "tpm", folder / "tpm")
        self.qmp("cont")

    @property
    def age(self) -> float:
        return time.monotonic() - self.born

    def look(self, command: str, seconds: float = 60) -> str:
        """What a command that root runs inside says: for tests of what no photograph shows (`Parts.inspect`).

        Raises:
            TimeoutError: it takes longer, or the phone is not up. RuntimeError: it failed.
        """
        if self._port is None:
            self._port = _connected(self.folder / "inspect", self.process)
        self._port.settimeout(seconds)
        self._port.sendall(json.dumps(command).encode() + b"\n")
        heard = b""
        while not heard.endswith(b"\n"):
            heard += self._port.recv(1 << 16)
        status, said = json.loads(heard)
        if status:
            raise RuntimeError(f"{command}: {said}")
        return str(said)

    def qmp(self, command: str, **arguments: Any) -> Any:
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._qmp.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"])
            if "return" in answer:
                return answer["return"]

    def close(self) -> None:
        for each in (self._qmp, self._qmp_socket, self._port):
            if each is not None:
                each.close()

    def _send(self, events: Sequence[dict[str, Any]]) -> None:
        self.qmp("input-send-event", events=list(events))

    def _places(self, x: float, y: float, finger: int) -> list[dict[str, Any]]:
        across, down = on_glass(x / self.size[0], y / self.size[1], self.held)
        places = (("x", across), ("y", down))
        return [_touch("data", finger, finger + 1, axis, round(part * _RANGE)) for axis, part in places]


def upright(panel: Picture, held: str) -> Picture:
    """What the panel shows, as its owner sees it."""
    return np.rot90(panel, _QUARTERS[held])


def on_glass(x: float, y: float, held: str) -> tuple[float, float]:
    """Where a place of the picture is on the glass, which does not know how it is held; all are parts of the whole."""
    if held == LEFT_UP:
        return y, 1 - x
    return (1 - y, x) if held == RIGHT_UP else (x, y)


def differing(one: Picture, other: Picture) -> float:
    """The share of pixels that differ visibly; 1.0 where the sizes do."""
    if one.shape != other.shape:
        return 1.0
    return float(np.mean(np.abs(one.astype(np.int16) - other).max(axis=2) > 12))


def like(colour: tuple[int, int, int], picture: Picture, tolerance: int = 8) -> NDArray[np.bool_]:
    """Where a picture has about this colour."""
    near: NDArray[np.bool_] = np.abs(picture.astype(np.int16) - np.array(colour)).max(axis=2) <= tolerance
    return near


@contextlib.contextmanager
def switched_on(parts: Parts, folder: Path, *extra: str, cpus: int = 2, state: Path | None = None) -> Iterator[Handset]:
    """Power a phone on; its storage is a file in `folder` and stays there. It is cut off at the end of the block. With `state` it
    is not powered on but goes on from where `Handset.keep_state` put it down."""
    storage, kept = folder / "storage.raw", folder / "tpm"
    if state is not None:
        _copy(state / "storage.raw", storage)
        _copy_chip(state / "tpm", kept)
        extra = (*extra, "-incoming", f"file:{state / 'memory'}")
    elif not storage.exists():
        shutil.copyfile(parts.built.path("user-template"), storage)
        os.truncate(storage, parts.built.manifest.user_disk_size)
    for name in ("qmp", "inspect"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.ExitStack() as undo:
        sensor, inner = socket.socketpair(socket.AF_UNIX)
        undo.callback(sensor.close)
        undo.callback(inner.close)
        words, passed = _board(parts, folder, cpus), [inner.fileno()]
        words += [
            "-chardev",
            f"socket,id=s,fd={inner.fileno()}",
            "-device",
            "virtserialport,chardev=s,name=handset.sensor",
        ]
        if shutil.which("swtpm"):
            carried = chip(kept, undo).fileno()
            words += ["-chardev", f"socket,id=t,fd={carried}", "-device", "virtserialport,chardev=t,name=handset.tpm"]
            passed.append(carried)
        born = time.monotonic()
        log = undo.enter_context((folder / "qemu.log").open("wb"))
        process = spawn([*words, *extra], stderr=log, pass_fds=passed)
        undo.callback(_end, process)
        handset = Handset(folder, process, born, sensor)
        undo.callback(handset.close)
        yield handset


def _copy(source: Path, target: Path) -> None:
    run(["cp", "--sparse=always", "--reflink=auto", source, target], timeout=300)


def _copy_chip(source: Path, target: Path) -> None:
    """What a chip keeps without power; it goes on as newly switched on."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def _board(parts: Parts, folder: Path, cpus: int) -> list[str]:
    built = parts.built
    disks = [(built.path("system"), "on"), (folder / "storage.raw", "off")]
    if parts.software:
        disks.append((parts.software, "on"))
    words = [
        find("qemu-system-aarch64"), "-nodefaults", "-no-user-config", "-display", "none",
        "-M", "virt-10.0,virtualization=on,gic-version=3", "-accel", "tcg,thread=multi", "-cpu", "cortex-a76",
        "-smp", str(cpus), "-m", str(MEMORY),
        "-kernel", str(built.path("kernel")), "-initrd", str(built.path("initrd")),
        "-append", f"{built.manifest.cmdline} console=ttyAMA0 handset.shell={parts.face}{' handset.inspect' * parts.inspect}",
        "-serial", f"file:{folder}/serial",
        "-device", f"virtio-gpu-pci,edid=on,xres={WIDTH},yres={HEIGHT}",
        "-device", "virtio-multitouch-pci", "-device", "virtio-keyboard-pci", "-device", "virtio-rng-pci",
        "-audiodev", "none,id=a", "-device", "ich9-intel-hda", "-device", "hda-output,audiodev=a",
        "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=", "-device", "virtio-serial-pci",
        "-qmp", f"unix:{folder}/qmp,server=on,wait=off", "-no-reboot",  # the chip starts anew with the phone alone
    ]  # fmt: skip
    if parts.inspect:
        words += ["-chardev", f"socket,id=i,path={folder}/inspect,server=on,wait=off"]
        words += ["-device", "virtserialport,chardev=i,name=handset.inspect"]
    for number, (path, read_only) in enumerate(disks):
        words += ["-drive", f"if=none,id=d{number},file={path},format=raw,readonly={read_only},cache=unsafe"]
        words += ["-device", f"virtio-blk-pci,drive=d{number}"]
    return words


def chip(state: Path, undo: contextlib.ExitStack) -> socket.socket:
    """A TPM of its own, emulated, switched on with the phone; what it keeps stays in `state`. Returned is what takes its
    commands: they come out of the phone by a port (recipes/handset/overlay/usr/lib/handset/chip), as Debian's arm64 kernel has no
    driver for the form of a TPM that QEMU's board has."""
    state.mkdir(exist_ok=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    undo.callback(ours.close)
    with theirs:
        words = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--fd", str(theirs.fileno())]
        process = spawn([*words, "--flags", "not-need-init,startup-clear"], pass_fds=[theirs.fileno()])
    undo.callback(_end, process)
    return ours


def _touch(kind: str, slot: int, tracking: int, axis: str = "x", value: int = 0) -> dict[str, Any]:
    return {"type": "mtt", "data": {"type": kind, "slot": slot, "tracking-id": tracking, "axis": axis, "value": value}}


def _contact(finger: int, *, down: bool) -> list[dict[str, Any]]:
    """Touch screens say apart from each finger's place that the glass is touched at all."""
    return [{"type": "btn", "data": {"down": down, "button": "touch"}}] if finger == 0 else []


def _connected(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(60)
    deadline = time.monotonic() + 30
    while True:
        try:
            found.connect(str(path))
            return found
        except OSError:
            if time.monotonic() > deadline or process.poll() is not None:
                found.close()
                raise
            time.sleep(0.02)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
