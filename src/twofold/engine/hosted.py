"""The hosted engine: QEMU as an ordinary program of this user, sandboxed, and handed descriptors instead of paths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from twofold.engine import firmware, hardware
from twofold.engine.devices import Handed
from twofold.engine.machine import CHANNEL, LOG, PIDFILE, QMP, RAM, HostedMachine, last_words, occupied, same_process
from twofold.engine.monitor import Monitor
from twofold.engine.probe import Answer, native, probe
from twofold.model.errors import DamagedError, MissingError, TwofoldError, UnreachableError, UsageError
from twofold.model.image import Arch
from twofold.model.machine import Capabilities, Spec
from twofold.platform import cgroup, memfd
from twofold.platform import memory as room
from twofold.platform.limits import harden, locked_memory_limit, start_time
from twofold.platform.peers import listen
from twofold.platform.process import disown
from twofold.platform.run import CommandError, find, replayable, run, spawn

OLDEST = (10, 0)  # the machine types in hardware.py
_OVERHEAD = 192 << 20  # what QEMU itself takes beside the guest's memory: code, translation cache, screen
_START_SECONDS = 20.0
_SAYS_SECONDS = 12.0  # to say its version: a second on a slow phone that does much else, many times that where it hangs
_VERSION = re.compile(rb"QEMU emulator version (\d+)\.(\d+)\.(\d+)([^\n]*)")


class HostedEngine:
    """`cache` is the folder where probe answers are kept. With `screens` its machines have an RFB screen (`Machine.screen`)."""

    def __init__(self, cache: Path, arch: Arch | None = None, *, screens: bool = False) -> None:
        self._cache, self._arch, self._screens = cache, arch or native() or Arch.AMD64, screens
        self._answers: dict[Arch, Answer] = {}
        self._versions: dict[tuple[str, int], str] = {}

    async def capabilities(self) -> Capabilities:
        version = await asyncio.to_thread(self.version, self._arch)
        answer = await asyncio.to_thread(self.answer, self._arch)
        return Capabilities(
            "hosted", answer.accelerator, answer.reason, version, suspend=True, display=True, sandbox=True
        )

    def machine_type(self, spec: Spec) -> str:
        return hardware.machine_type(spec)

    def cpu_model(self, spec: Spec) -> str:
        """`max` names one fixed CPU per QEMU version; `host` is only as good as the processor it names."""
        model = hardware.cpu(spec, self.answer(spec.arch).accelerator)
        return model if model != "host" else f"host ({_processor()})"

    def answer(self, arch: Arch) -> Answer:
        if arch not in self._answers:
            self._answers[arch] = probe(arch, self._cache)
        return self._answers[arch]

    def version(self, arch: Arch) -> str:
        """QEMU's whole version, its packaging included: memory is only ever given back to the very same QEMU.

        Raises:
            MissingError: not installed, or older than `OLDEST`.
        """
        program = find(hardware.QEMU[arch])
        key = (program, Path(program).stat().st_mtime_ns)
        if key not in self._versions:
            match = _VERSION.match(run([program, "--version"], timeout=_SAYS_SECONDS).stdout)
            if not match or (int(match[1]), int(match[2])) < OLDEST:
                found = b".".join(match.groups()[:3]).decode() if match else "unknown"
                raise MissingError(
                    f"QEMU here is version {found}; Twofold needs {OLDEST[0]}.{OLDEST[1]} or newer.",
                    safe="Nothing was started.",
                    next="Install a newer one (Debian 12: qemu-system-x86 from bookworm-backports).",
                )
            self._versions[key] = b".".join(match.groups()[:3]).decode() + match[4].decode().rstrip()
        return self._versions[key]

    def memory(self, spec: Spec) -> int:
        return memory_file(spec)

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
    ) -> HostedMachine:
        await asyncio.to_thread(self.version, spec.arch)
        accelerator = (await asyncio.to_thread(self.answer, spec.arch)).accelerator
        _require(spec, disks, runtime)
        if memory is not None and os.fstat(memory).st_size < spec.memory_mib << 20:
            raise DamagedError("The suspended memory is cut off.", safe="The disks are safe.", next="Boot instead.")
        options = hardware.Options(
            accelerator, _lock(spec), stopped=True, incoming=memory is not None, screen=self._screens
        )
        async with contextlib.AsyncExitStack() as undo:
            machine = await _launch(spec, disks, parts, runtime, memory, options, undo, network)
            if memory is not None:
                if loaded is not None:
                    await loaded  # QEMU has started meanwhile
                await machine.load()
            elif not paused:
                await machine.resume()
            undo.pop_all()
        return machine

    async def attach(self, runtime: Path) -> HostedMachine | None:
        try:
            untrusted_record = json.loads((runtime / PIDFILE).read_bytes())
            pid, started, share = (untrusted_record[name] for name in ("pid", "started", "share"))
        except (OSError, ValueError, KeyError, TypeError):
            await _end_unrecorded(runtime)
            return None
        if type(pid) is not int or not same_process(pid, started):
            return None
        return HostedMachine(pid, runtime, await Monitor.connect(runtime / QMP), str(share)[:300])


async def _end_unrecorded(runtime: Path) -> None:
    """A QEMU whose agent died between starting it and writing its record: no guest has run in it, and nobody else knows it."""
    with contextlib.suppress(TwofoldError):
        monitor = await Monitor.connect(runtime / QMP, 2)
        try:
            await monitor.run("quit", seconds=5)
        finally:
            await monitor.close()


async def _launch(
    spec: Spec,
    disks: Mapping[str, socket.socket | Path],
    parts: Mapping[str, int],
    runtime: Path,
    memory: int | None,
    options: hardware.Options,
    undo: contextlib.AsyncExitStack,
    network: Path | None,
) -> HostedMachine:
    """Start QEMU and connect to it. What must be undone if a later step fails is left on `undo`."""
    with contextlib.ExitStack() as ours:  # descriptors that only QEMU needs once it runs
        control = ours.enter_context(listen(runtime / QMP, backlog=1))
        undo.callback((runtime / QMP).unlink, missing_ok=True)
        channel = None
        if spec.agent_channel:
            channel = ours.enter_context(listen(runtime / CHANNEL, backlog=1))
            undo.callback((runtime / CHANNEL).unlink, missing_ok=True)
        if memory is None:
            memory = memory_file(spec)
            ours.callback(os.close, memory)
        code, variables = firmware.descriptors(spec, parts, ours)
        handed = Handed(
            control.fileno(),
            channel.fileno() if channel else None,
            memory,
            {name: disk if isinstance(disk, Path) else disk.fileno() for name, disk in disks.items()},
            parts.get("kernel"),
            parts.get("initrd"),
            code,
            variables,
            network,
        )
        argv = hardware.command(spec, handed, options)
        streams = [disk for disk in handed.disks.values() if isinstance(disk, int)]
        fds = [handed.qmp, handed.agent, handed.ram, *streams, handed.kernel, handed.initrd, code, variables]
        log = ours.enter_context((runtime / LOG).open("wb"))
        child = spawn(argv, pass_fds=[fd for fd in fds if fd is not None], stderr=log)
    undo.callback(_end, child)
    harden(child.pid, oom_adjust=-500)
    share = cgroup.favour(child.pid, runtime.name, spec.memory_mib << 20)
    undo.callback(cgroup.release, runtime.name)
    _write_record(runtime, child.pid, share.says)
    undo.callback((runtime / PIDFILE).unlink, missing_ok=True)
    try:
        monitor = await _connect(runtime, child.pid)
    except TwofoldError as failed:
        child.kill()
        status = child.wait()
        raise _translated(argv, status, last_words(runtime / LOG, 8)) from failed
    disown(child)
    machine = HostedMachine(child.pid, runtime, monitor, share.says)
    undo.push_async_callback(machine.close)
    undo.push_async_callback(machine.kill)
    return machine


def memory_file(spec: Spec) -> int:
    """All hole; to be suspended, it is made longer."""
    fd = memfd.create(RAM)
    os.ftruncate(fd, spec.memory_mib << 20)
    return fd


def _end(child: subprocess.Popen[bytes]) -> None:
    """Undo a start that failed before there was a machine to kill."""
    if child.returncode is None:
        child.kill()
        child.wait()


async def _connect(runtime: Path, pid: int) -> Monitor:
    """The listening socket was made by us, so connecting succeeds at once; QEMU greets when it is up, or dies."""
    deadline = time.monotonic() + _START_SECONDS
    waiting = asyncio.ensure_future(Monitor.connect(runtime / QMP, _START_SECONDS))
    try:
        while not waiting.done():
            if start_time(pid) is None or time.monotonic() > deadline:
                raise UnreachableError("QEMU ended while it started.")
            await asyncio.wait({waiting}, timeout=0.05)
        return waiting.result()
    finally:
        if not waiting.done():
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def _require(spec: Spec, disks: Mapping[str, socket.socket | Path], runtime: Path) -> None:
    missing = {disk.device for disk in spec.disks} ^ disks.keys()
    if missing:
        raise UsageError(f"The spec's disks and the handed ones differ: {', '.join(sorted(missing))}.")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        untrusted_record = json.loads((runtime / PIDFILE).read_bytes())
        if same_process(untrusted_record["pid"], untrusted_record["started"]):
            raise occupied(runtime)
    room.require((spec.memory_mib << 20) + _OVERHEAD, f"{spec.workspace} ({spec.memory_mib} MiB)")


def _lock(spec: Spec) -> bool:
    """Lock touched guest memory where this machine swaps to a disk and the user may lock that much."""
    return bool(room.swaps()) and locked_memory_limit() >= (spec.memory_mib << 20) + (512 << 20)


def _write_record(runtime: Path, pid: int, share: str) -> None:
    record: dict[str, Any] = {"pid": pid, "started": start_time(pid), "share": share}
    fresh = runtime / f"{PIDFILE}.new"
    fresh.write_text(json.dumps(record))
    fresh.replace(runtime / PIDFILE)


def _translated(argv: list[str], status: int, said: str) -> TwofoldError:
    if "does not accept value 'dbus'" in said or "'dbus' is not" in said or "audio driver: dbus" in said.lower():
        return MissingError(
            "QEMU here has no D-Bus display.",
            safe="Nothing was started.",
            next="Install its modules (Debian: qemu-system-modules-opengl).",
        )
    if "Failed to load" in said or "incoming" in said:
        return DamagedError(said, safe="The disks are safe.", next="Boot instead.")
    return CommandError(replayable(argv), status, said)


def _processor() -> str:
    """The host's processor by name and microcode, as /proc/cpuinfo has them."""
    wanted = ("model name", "stepping", "microcode", "CPU implementer", "CPU part")
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in wanted:
            facts.setdefault(name.strip(), value.strip())
    return ", ".join(facts.values()) or os.uname().machine
