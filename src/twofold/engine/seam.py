"""The seam between the agent and what runs a VM. All waiting calls are coroutines and always end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from twofold.model.machine import Capabilities, Spec


@dataclass(frozen=True)
class Stats:
    """`memory` resident bytes, `cpu_seconds` used since start, `status` QEMU's or Xen's own word for the run state."""

    memory: int
    cpu_seconds: float
    status: str


class Machine(Protocol):
    """One running VM. It lives in a process of its own that outlives the agent."""

    @property
    def pid(self) -> int: ...

    @property
    def channel(self) -> Path:
        """The private socket at whose other end the guest's agent listens."""

    @property
    def paused_by_store(self) -> asyncio.Event:
        """Set while the guest stands still because a disk of its was full or gone."""

    async def pause(self) -> None: ...

    async def resume(self) -> None:
        """Let the guest run (again)."""

    async def suspend(self) -> int:
        """Pause, flush the disks and return the memory file (memfd) that the machine lives in, with the rest of its state
        behind; the machine stays paused, so that a caller that fails to seal it can `resume`. The caller closes the file and
        then calls `kill`."""

    async def power_button(self) -> None:
        """Ask the guest to shut down (ACPI)."""

    async def display(self) -> socket.socket:
        """A private stream on which the guest's screen, input and sound are reached (hosted: QEMU's D-Bus display, on which
        the holder authenticates as a client). Hand it to one process; closing it ends that viewer alone."""

    async def screen(self) -> socket.socket:
        """A private stream that speaks RFB 3.8 without a password, for one viewer; several may be open. Only of machines whose
        engine was made with screens, on a node."""

    async def kill(self) -> None:
        """End the VM at once; disks stay as after a power cut. Idempotent."""

    async def wait(self) -> str:
        """Wait until the VM has ended; returns why, for a person ('guest shut down', 'killed', 'crashed: ...')."""

    async def stats(self) -> Stats: ...

    async def close(self) -> None:
        """Let go of the machine without ending it."""


class Engine(Protocol):
    """Starts machines."""

    async def capabilities(self) -> Capabilities: ...

    def machine_type(self, spec: Spec) -> str:
        """The versioned machine type for this spec; part of a suspended memory's identity."""

    def cpu_model(self, spec: Spec) -> str:
        """The CPU model for this spec; part of a suspended memory's identity."""

    def memory(self, spec: Spec) -> int:
        """An empty memory file for a machine to be resumed in; the caller closes it."""

    async def start(
        self,
        spec: Spec,
        disks: Mapping[str, socket.socket | Path],
        parts: Mapping[str, int],
        runtime: Path,
        memory: int | None = None,
        loaded: Awaitable[None] | None = None,
        paused: bool = False,
        network: Path | None = None,
    ) -> Machine:
        """Start a VM. `disks` maps a spec disk's device to a connected NBD stream, or to the store's socket where the VM is
        to reach it again after the store was started anew; `parts` holds descriptors of `kernel` and `initrd` for a direct
        boot; `memory` is a file as `suspend` gave it, which the machine lives in from now on, and `loaded` the promise that
        it is, where it is still being unsealed while the VM starts (the machine is then still paused, and `resume` starts
        it); `network` the socket of the network process, where the spec has a card. Sockets and the pid file lie in the
        private folder `runtime`. Everything is undone on failure.

        Raises:
            MissingError: QEMU is not there or too old. NoRoomError: not enough free memory. DamagedError: `memory` does not load.
        """

    async def attach(self, runtime: Path) -> Machine | None:
        """The machine that a former agent left in `runtime`, or None if it has ended."""
