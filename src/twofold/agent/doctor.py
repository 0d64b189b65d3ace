"""What this machine can do for a workspace, and what it can't: one honest line each, with what to do about it."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.agent.rooms import ENROLMENT, Rooms
from twofold.agent.workspace import Workspace
from twofold.engine import network
from twofold.model.errors import TwofoldError
from twofold.model.machine import Accelerator
from twofold.platform import memory
from twofold.platform.dirs import Dirs
from twofold.platform.run import own, run
from twofold.trust.assurance import tpm

GOOD, POOR, BAD = "good", "poor", "bad"
_MEMORY = 1536 << 20  # bytes: one workspace with its machine
_DISK = 4 << 30


@dataclass(frozen=True)
class Check:
    """`verdict` is `good`, `poor` (works, with this drawback) or `bad` (does not work until `next` is done)."""

    name: str
    verdict: str
    detail: str
    next: str = ""


async def checks(dirs: Dirs, rooms: Rooms, workspaces: Sequence[Workspace]) -> list[Check]:
    """All of them, each by looking or by running something; none changes anything."""
    return [
        *await _engine(rooms),
        _network(),
        _memory(),
        _disk(dirs),
        _swap(),
        _core_dumps(),
        *_shares(workspaces),
        _sound(),
        _key(),
        await _server(dirs, rooms),
        *(_workspace(ws) for ws in workspaces),
    ]


async def _engine(rooms: Rooms) -> list[Check]:
    try:
        able = await rooms.engine.capabilities()
    except TwofoldError as lacking:
        return [Check("engine", BAD, lacking.happened, lacking.next)]
    fast = able.accelerator is not Accelerator.TCG
    slow = "Programs inside run slower than on the machine itself. Switch on virtualization in its setup, if it has it."
    return [
        Check("accelerator", GOOD if fast else POOR, able.accelerator_reason, "" if fast else slow),
        Check("engine", GOOD, f"QEMU {able.version}, sandboxed, handed descriptors instead of paths."),
    ]


def _network() -> Check:
    """Only workspaces whose policy allows a network need it."""
    try:
        said = run([own(network.PROGRAM), "--version"], timeout=5).stdout.decode(errors="replace").strip()
    except TwofoldError as lacking:
        return Check("network", BAD, lacking.happened, lacking.next)
    return Check("network", GOOD, f"{said}: a guest's network ends there, and reaches what its policy lists.")


def _memory() -> Check:
    room = memory.room()
    enough = room.available >= _MEMORY
    return Check(
        "memory",
        GOOD if enough else BAD,
        f"{room.available >> 20} MiB can be taken now ({room.limit}); a workspace takes about {_MEMORY >> 20} MiB.",
        "" if enough else "Close some programs, or suspend another workspace.",
    )


def _disk(dirs: Dirs) -> Check:
    free = shutil.disk_usage(dirs.state).free
    enough = free >= _DISK
    return Check(
        "disk",
        GOOD if enough else POOR,
        f"{free >> 20} MiB are free where workspaces lie ({dirs.state}).",
        "" if enough else f"Free some space; a check-out takes up to {_DISK >> 20} MiB.",
    )


def _swap() -> Check:
    areas = memory.swaps()
    if not areas:
        return Check("swap", GOOD, "No swap on a disk: what is in memory is never written out.")
    return Check(
        "swap",
        POOR,
        f"This machine swaps to {', '.join(areas)}: memory of a running workspace can be written there unsealed.",
        "Encrypt the swap area with a key made at each boot, or switch it off:  sudo swapoff -a",
    )


def _core_dumps() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_CORE)
    if soft == 0:
        return Check(
            "core dumps", GOOD, "Off for the agent and what it starts; guest memory is left out of QEMU's anyway."
        )
    return Check("core dumps", POOR, "The agent may leave core dumps.", "Start it anew:  twofold agent quit")


def _shares(workspaces: Sequence[Workspace]) -> list[Check]:
    """What each running machine was given; without one running, whether a control group could be used."""
    found = []
    for ws in workspaces:
        says = getattr(ws.machine, "share", "") if ws.machine else ""
        if says:
            found.append(Check(f"processor share of {ws.title}", POOR if "no more" in says else GOOD, says))
    if found:
        return found
    groups = (
        Path("/sys/fs/cgroup/twofold"),
        Path("/sys/fs/cgroup/unified/twofold"),
        Path("/sys/fs/cgroup/cpu/twofold"),
    )
    ours = next((group for group in groups if os.access(group, os.W_OK)), None)
    if ours is not None:
        return [Check("processor share", GOOD, f"Workspaces get a share of their own in {ours}.")]
    return [
        Check(
            "processor share",
            POOR,
            "No control group was set up for this user; what is given to a machine is seen once one runs.",
            "Once, as root:  tools/setup-cgroup USER",
        )
    ]


def _sound() -> Check:
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"))
    sockets = [runtime / "pipewire-0", runtime / "pulse/native"]
    found = next((path.name for path in sockets if path.exists()), None)
    if found or Path("/dev/snd").exists():
        return Check("sound", GOOD, f"Sound goes out through {found or 'ALSA'}.")
    return Check("sound", POOR, "This session has no sound; workspaces are silent.", "Start PipeWire or PulseAudio.")


def _key() -> Check:
    seen = str(tpm())
    return Check(
        "device key",
        POOR,
        f"{seen[0].upper()}{seen[1:]}: the device's key is a file that this user, and root, can copy.",
        "Encrypt this machine's disk, so that a thief of it gets nothing.",
    )


async def _server(dirs: Dirs, rooms: Rooms) -> Check:
    if not (dirs.state / ENROLMENT).exists():
        return Check("server", POOR, "This device is not enrolled.", "twofold enrol URL")
    try:
        grants = await asyncio.to_thread(lambda: rooms.remote().grants())
    except TwofoldError as away:
        return Check("server", POOR, away.happened, "Workspaces run offline until their time is up.")
    return Check(
        "server", GOOD, f"{rooms.remote().enrolment.place.origin} answers and grants {len(grants)} workspaces."
    )


def _workspace(ws: Workspace) -> Check:
    error = ws.to_wire()["error"]
    if error is None:
        return Check(f"workspace {ws.name}", GOOD, f"{ws.title} is {ws.run}.")
    verdict = BAD if ws.wrong is not None else POOR
    return Check(f"workspace {ws.name}", verdict, f"{error['happened']} {error['safe']}".strip(), error["next"])
