"""The seam between a workspace's machine and its store."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from twofold.model.machine import MemoryIdentity
from twofold.model.progress import Progress


@dataclass(frozen=True)
class DeviceSpec:
    """A device of a vault. `size` in bytes, a multiple of 4096. A `base` device is filled once and read-only ever after."""

    name: str
    size: int
    base: bool = False


class OpenVault(Protocol):
    """A vault with its process running. The process is the only holder of the data key and outlives the agent."""

    @property
    def pid(self) -> int: ...

    def connect(self, device: str) -> socket.socket:
        """A connected NBD stream for one export, ready to be handed to an engine. Read-only for a base device."""

    def head(self) -> str:
        """The exact state of all devices together, as text; it changes before the first write after each opening."""

    def seal_memory(self, identity: MemoryIdentity, memory: int, progress: Progress) -> int:
        """Seal the data ranges of the memfd `memory`; durable on return. Returns the stored bytes.

        Raises:
            NoRoomError: the disk is short; nothing is stored and the machine may go on.
        """

    def memory_identity(self) -> MemoryIdentity | None:
        """What the stored memory belongs to (authenticated), or None where there is none."""

    def open_memory(self, progress: Progress) -> int:
        """Unseal the stored memory into a new memfd and return it. The caller closes it.

        Raises:
            DamagedError: torn, foreign or forged; the disks are safe and the machine can boot.
        """

    def consume_memory(self) -> None:
        """Durably forget the stored memory. Called before the guest's first instruction: memory never runs twice."""

    def close(self) -> None:
        """Flush, stop the process, drop the key. Idempotent."""


class Vault(Protocol):
    """A vault at rest, at one place on disk."""

    def create(self, where: Path, key: bytes, devices: Sequence[DeviceSpec]) -> None:
        """Make an empty vault in the new folder `where`. `key` is 32 bytes. On any failure nothing remains.

        Raises:
            ConflictError: there is one already. NoRoomError: the disk is short.
        """

    def fill(self, where: Path, key: bytes, device: str, source: BinaryIO, progress: Progress) -> None:
        """Write `source` to a device from its start; used once, at check-out, before the vault is first opened."""

    def open(self, where: Path, key: bytes, runtime: Path) -> OpenVault:
        """Start the vault process, its private sockets in `runtime`.

        Raises:
            ConflictError: it is open already. DamagedError: it cannot be opened; says what is safe.
        """

    def attach(self, where: Path, key: bytes, runtime: Path) -> OpenVault | None:
        """The already running process of this vault (after an agent's death), or None; one that was never recorded is ended."""

    def release(self, where: Path) -> None:
        """End whatever process still has this vault open, recorded or not: nobody will attach to it. Idempotent."""

    def stored_bytes(self, where: Path) -> int:
        """What the vault takes on this disk, in bytes."""

    def destroy(self, where: Path) -> None:
        """Remove every file of the vault. The caller has destroyed the key before."""
