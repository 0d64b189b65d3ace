"""A running VM: what can be done with it over QEMU's control socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
from pathlib import Path
from typing import Any

from twofold.engine.monitor import CommandFailedError, Monitor
from twofold.engine.seam import Stats
from twofold.model.errors import ConflictError, DamagedError, TimedOutError, TwofoldError, UnreachableError
from twofold.platform import cgroup, memfd, memory
from twofold.platform.limits import start_time
from twofold.platform.process import reap

QMP, CHANNEL, PIDFILE, LOG = "qmp.sock", "agent-channel.sock", "machine.json", "qemu.log"
RAM = "twofold-ram"  # the memory file's name

_FDSET = 100  # fdset ids below are the firmware's
_TICKS = os.sysconf("SC_CLK_TCK")
_STATE = 128 << 20  # bytes that the state of all devices takes at most, screens included
_REASONS = {
    "guest-shutdown": "guest shut down",
    "guest-reset": "guest restarted and was ended",
    "guest-panic": "guest crashed",
    "host-qmp-quit": "ended by Twofold",
    "host-signal": "ended by a signal",
}


class HostedMachine:
    """One QEMU process. `paused_by_store` says that QEMU stopped the guest because a disk was full or gone."""

    def __init__(self, pid: int, runtime: Path, monitor: Monitor, share: str) -> None:
        self._pid, self._runtime, self._monitor = pid, runtime, monitor
        self.share = share
        self._pidfd = os.pidfd_open(pid)
        self._reason: str | None = None
        self._killed = False
        self._status: int | None = None
        self._paused_by_store = asyncio.Event()
        monitor.watch(("SHUTDOWN", "BLOCK_IO_ERROR", "RESUME"), self._heard)

    def __repr__(self) -> str:
        return f"HostedMachine(pid={self._pid}, runtime={self._runtime})"

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def paused_by_store(self) -> asyncio.Event:
        return self._paused_by_store

    @property
    def channel(self) -> Path:
        return self._runtime / CHANNEL

    async def pause(self) -> None:
        await self._monitor.run("stop", seconds=30)

    async def resume(self) -> None:
        """Let the guest run (again); also after its store was full, once there is room."""
        self._paused_by_store.clear()
        await self._monitor.run("cont", seconds=30)

    async def suspend(self) -> int:
        """See the seam. The guest's memory as it is, not a copy; behind it the state of the devices as QEMU writes it.

        Raises:
            NoRoomError: too little memory even for that state; the guest goes on as it was.
        """
        memory.require(_STATE, "Suspending")
        before = (await self._monitor.run("query-status"))["status"]
        with contextlib.ExitStack() as undo:
            fd = self._ram()
            undo.callback(os.close, fd)
            await self._monitor.run("stop", seconds=60)  # QEMU drains and flushes every disk before it answers
            try:
                await self._save(fd)
            except BaseException:
                if before == "running":
                    with contextlib.suppress(TwofoldError):
                        await self._monitor.run("cont")
                raise
            undo.pop_all()
        return fd

    async def _save(self, fd: int) -> None:
        writer = memfd.reopen(fd, os.O_WRONLY)
        try:
            await self._monitor.run("add-fd", fd=writer, fdset_id=_FDSET)
        finally:
            os.close(writer)
        try:
            await migrate(self._monitor, "migrate", seconds=60)
        finally:
            await self._monitor.run("remove-fd", fdset_id=_FDSET)

    async def load(self) -> None:
        """Load the state of the devices from behind the memory that the machine was started in; it is paused afterwards.

        Raises:
            DamagedError: QEMU refuses the memory.
        """
        fd = self._ram()
        try:
            reader = memfd.reopen(fd, os.O_RDONLY)
        finally:
            os.close(fd)
        try:
            await self._monitor.run("add-fd", fd=reader, fdset_id=_FDSET)
        finally:
            os.close(reader)
        try:
            await migrate(self._monitor, "migrate-incoming", seconds=60)
        except (CommandFailedError, UnreachableError) as refused:
            raise DamagedError(
                f"QEMU cannot load the suspended memory. {self.last_words()}".strip(),
                safe="The disks are safe.",
                next="Boot instead.",
            ) from refused
        await self._monitor.run("remove-fd", fdset_id=_FDSET)

    async def power_button(self) -> None:
        await self._monitor.run("system_powerdown")

    async def display(self) -> socket.socket:
        return await self._client("@dbus-display")

    async def screen(self) -> socket.socket:
        return await self._client("vnc")

    async def _client(self, protocol: str) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await self._monitor.run("getfd", fd=theirs.fileno(), fdname="display")
            await self._monitor.run("add_client", protocol=protocol, fdname="display", tls=False, skipauth=False)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    async def screendump(self, fd: int) -> None:
        """Write the screen as PNG to the descriptor `fd` (opened write-only). For tests and the retained last frame."""
        await self._monitor.run("add-fd", fd=fd, fdset_id=_FDSET + 1)
        try:
            await self._monitor.run("screendump", filename=f"/dev/fdset/{_FDSET + 1}", format="png")
        finally:
            await self._monitor.run("remove-fd", fdset_id=_FDSET + 1)

    async def kill(self) -> None:
        if self._pidfd >= 0:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            await self.wait()

    async def wait(self) -> str:
        await readable(self._pidfd)
        if self._pidfd >= 0 and self._status is None:
            self._status = reap(self._pidfd)
        await self._monitor.drained()
        cgroup.release(self._group)
        if self._reason is None:
            if self._killed or self._status == -signal.SIGKILL:
                self._reason = "killed" if self._killed else "crashed: killed from outside"
            else:
                self._reason = f"crashed: {self.last_words() or 'QEMU ended without a word'}"
        await self._monitor.close()
        (self._runtime / PIDFILE).unlink(missing_ok=True)
        return self._reason

    async def stats(self) -> Stats:
        status = (await self._monitor.run("query-status"))["status"]
        return Stats(self._resident(), self._cpu_seconds(), str(status))

    async def close(self) -> None:
        await self._monitor.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def last_words(self) -> str:
        """QEMU's last lines on its error stream, safe to show."""
        return last_words(self._runtime / LOG)

    def _ram(self) -> int:
        try:
            return memfd.of(self._pid, RAM)
        except OSError as hidden:
            raise UnreachableError("The machine's memory cannot be reached.", safe="It was left as it is.") from hidden

    @property
    def _group(self) -> str:
        return self._runtime.name

    def _resident(self) -> int:
        return int(Path(f"/proc/{self._pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _heard(self, event: Any) -> None:
        if event["event"] == "SHUTDOWN":
            self._reason = _REASONS.get(event["data"]["reason"], event["data"]["reason"])
        elif event["event"] == "BLOCK_IO_ERROR" and event["data"]["action"] == "stop":
            self._paused_by_store.set()
        elif event["event"] == "RESUME":
            self._paused_by_store.clear()


async def migrate(monitor: Monitor, command: str, seconds: float) -> None:
    """Save all but the memory itself to the fdset, behind the memory, or load it from there, to the end.

    Raises:
        CommandFailedError: QEMU gave up; its reason inside.
    """
    on = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
    await monitor.run("migrate-set-capabilities", capabilities=on)
    # QEMU paces a migration to 128 MiB/s for a network unless told otherwise.
    await monitor.run("migrate-set-parameters", max_bandwidth=1 << 40)
    memory = (await monitor.run("query-memory-size-summary"))["base-memory"]
    async with monitor.events("MIGRATION") as listener:
        await monitor.run(command, uri=f"file:/dev/fdset/{_FDSET},offset={memory}")
        try:
            async with asyncio.timeout(seconds):
                async for event in listener:
                    facts: Any = event["data"]
                    status = facts["status"]
                    if status == "completed":
                        return
                    if status in ("failed", "cancelled"):
                        said = await monitor.run("query-migrate")
                        raise CommandFailedError(command, str(said.get("error-desc", status)))
        except TimeoutError as late:
            raise TimedOutError(f"QEMU did not finish {command} within {seconds:g} s.") from late


async def readable(fd: int) -> None:
    """Wait until a descriptor can be read; for a pidfd this is the process's end."""
    if select.select([fd], [], [], 0)[0]:
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    spare = os.dup(fd)  # one number can be watched only once, and several may wait

    def ended() -> None:
        if not done.done():
            done.set_result(None)

    loop.add_reader(spare, ended)
    try:
        await done
    finally:
        loop.remove_reader(spare)
        os.close(spare)


def last_words(log: Path, lines: int = 4) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            untrusted_text = file.read().decode(errors="replace")
    except OSError:
        return ""
    kept = [re.sub(r"[^\x20-\x7e]", "?", line)[:300] for line in untrusted_text.splitlines()[-lines:]]
    return "\n".join(kept)


def same_process(pid: int, started: int) -> bool:
    """Whether `pid` is still the process that began at `started` ticks after boot, not another with its number."""
    return start_time(pid) == started


def occupied(runtime: Path) -> ConflictError:
    return ConflictError(
        "This workspace's machine runs already.", safe="It was left as it is.", next="Use it, or stop it first."
    )
