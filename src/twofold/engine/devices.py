"""A guest's devices, each a small class whose fields become QEMU's words. Which guest gets which is `hardware.py`'s."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

RECONNECT = 30  # seconds that requests wait for a store that went away
GUEST_ADDRESS = "52:54:00:74:66:02"  # hardware address of the guest's card: the same for all, no two share a network
AGENT_PORT = "org.twofold.agent.0"  # docs/protocol.md, 1. Guest channel


def words(driver: str, **properties: str | int | bool | None) -> str:
    """QEMU's `driver,name=value,…`: underscores become hyphens, True and False on and off, None is left out."""
    pairs = ((name.rstrip("_").replace("_", "-"), value) for name, value in properties.items() if value is not None)
    return ",".join([driver, *(f"{name}={_text(value)}" for name, value in pairs)])


def _text(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")  # QEMU's way to write a comma inside a value


class Device(ABC):
    """Something that adds words to QEMU's command line."""

    @abstractmethod
    def argv(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Plain(Device):
    """A device with an id alone."""

    driver: str
    id: str

    def argv(self) -> Iterator[str]:
        yield from ("-device", words(self.driver, id=self.id))


@dataclass(frozen=True)
class Screen(Device):
    """A display adapter that reports a monitor (EDID) of the wanted size, so that the guest can follow the window."""

    driver: str
    width: int
    height: int

    def argv(self) -> Iterator[str]:
        yield from ("-device", words(self.driver, id="screen", edid=True, xres=self.width, yres=self.height))


@dataclass(frozen=True)
class NbdDisk(Device):
    """A disk of the store: a handed, connected NBD stream, or the store's socket, which QEMU connects to again when the store
    was started anew. When the store is full or gone for good the guest is stopped, never given an error: it goes on once there
    is room again."""

    device: str
    server: int | Path
    read_only: bool
    bus: str = "virtio"  # or "sata", which every guest has a driver for
    boot: int | None = None
    _drivers: ClassVar[dict[str, str]] = {"virtio": "virtio-blk-pci", "sata": "ide-hd"}

    def argv(self) -> Iterator[str]:
        node = f"disk-{self.device}"
        trim = None if self.read_only else "unmap"
        server: dict[str, str | int | bool] = {"server.type": "fd", "server.str": str(self.server)}
        if isinstance(self.server, Path):
            server = {"server.type": "unix", "server.path": str(self.server), "reconnect-delay": RECONNECT}
        server |= {"export": self.device, "cache.direct": True}
        yield "-blockdev"
        yield words("driver=nbd", node_name=node, **server, read_only=self.read_only, discard=trim, detect_zeroes=trim)
        yield "-device"
        bus = f"ide.{self.boot or 0}" if self.bus == "sata" else None
        yield words(
            self._drivers[self.bus], drive=node, id=self.device, serial=self.device[:20], bootindex=self.boot, bus=bus,
            werror="stop", rerror="stop",
        )  # fmt: skip


@dataclass(frozen=True)
class AgentChannel(Device):
    """The virtio-serial port of the guest's agent, on a handed listening socket `fd`."""

    fd: int

    def argv(self) -> Iterator[str]:
        yield from ("-chardev", words("socket", id="agent", fd=self.fd, server=True, wait=False))
        yield from ("-device", words("virtio-serial-pci", id="serial"))
        port = words("virtserialport", bus="serial.0", nr=1, chardev="agent", id="agent-port", name=AGENT_PORT)
        yield from ("-device", port)


@dataclass(frozen=True)
class Sound(Device):
    """An Intel HDA output; virtio-sound would not survive a suspend (QEMU 10 marks it unmigratable)."""

    audiodev: str

    def argv(self) -> Iterator[str]:
        yield from ("-device", words("ich9-intel-hda", id="sound"))
        yield from ("-device", words("hda-output", bus="sound.0", audiodev=self.audiodev))


@dataclass(frozen=True)
class Card(Device):
    """A network card whose frames go to the network process's socket and nowhere else; where that process was started anew, QEMU
    connects again."""

    driver: str
    server: Path

    def argv(self) -> Iterator[str]:
        server: dict[str, str | int | bool] = {"addr.type": "unix", "addr.path": str(self.server), "reconnect-ms": 500}
        yield from ("-netdev", words("stream", id="outside", server=False, **server))
        card = words(self.driver, id="network", netdev="outside", mac=GUEST_ADDRESS, romfile="")
        yield from ("-device", card)


@dataclass(frozen=True)
class Flash(Device):
    """UEFI code (read-only) and its variables, each from an fdset made of a handed descriptor."""

    code: int
    variables: int

    def argv(self) -> Iterator[str]:
        yield from ("-add-fd", words(f"fd={self.code}", set=2), "-add-fd", words(f"fd={self.variables}", set=3))
        yield from ("-blockdev", words("driver=file", node_name="code", filename="/dev/fdset/2", read_only=True))
        yield from ("-blockdev", words("driver=file", node_name="variables", filename="/dev/fdset/3"))


@dataclass(frozen=True)
class DirectBoot(Device):
    """Our own kernel and initrd, read from handed descriptors."""

    kernel: int
    initrd: int | None
    cmdline: str

    def argv(self) -> Iterator[str]:
        yield from ("-kernel", f"/proc/self/fd/{self.kernel}")
        if self.initrd is not None:
            yield from ("-initrd", f"/proc/self/fd/{self.initrd}")
        if self.cmdline:
            yield from ("-append", self.cmdline)


@dataclass(frozen=True)
class Handed:
    """The descriptors QEMU is started with, by number. `disks` maps a device's name to its NBD stream or the store's socket;
    `network` is the network process's."""

    qmp: int
    agent: int | None
    ram: int
    disks: dict[str, int | Path] = dataclasses.field(default_factory=dict)
    kernel: int | None = None
    initrd: int | None = None
    firmware_code: int | None = None
    firmware_vars: int | None = None
    network: Path | None = None
