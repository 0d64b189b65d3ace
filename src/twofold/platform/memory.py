"""How much memory this machine can still give, and whether what lies in memory can reach a disk."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from pathlib import Path

from twofold.model.errors import NoRoomError

_UNLIMITED = 1 << 60
_M_ARENA_MAX = -8


@dataclass(frozen=True)
class Room:
    """`available` bytes of `total` (0: not known), and which limit they come from, for a person."""

    available: int
    limit: str
    total: int = field(default=0, compare=False)


def room(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> Room:
    """Memory that can be taken now without swapping: the least of the kernel's MemAvailable (proc(5)) and what is left
    below each memory limit of the control groups that this process is in."""
    facts = _meminfo(proc)
    found = [Room(facts["MemAvailable"], "this machine", facts.get("MemTotal", 0))]
    found += [Room(left, "this session's control group", top) for left, top in _group_room(proc, cgroup)]
    return min(found, key=lambda each: each.available)


def require(needed: int, what: str, now: Room | None = None) -> None:
    """Refuse before anything starts where memory is short.

    Raises:
        NoRoomError: with both figures.
    """
    now = now or room()
    if needed > now.available:
        never = needed > now.total > 0
        has = f"has {now.total >> 20} MiB in all" if never else f"has {max(now.available, 0) >> 20} MiB left"
        raise NoRoomError(
            f"{what} needs {needed >> 20} MiB of memory; {now.limit} {has}.",
            safe="Nothing was started and nothing was changed.",
            next="It can only run on a machine with more memory."
            if never
            else "Close some programs or suspend another workspace, then try again.",
        )


def swaps(proc: Path = Path("/proc")) -> list[str]:
    """The swap areas in use, by name (proc(5), swaps). zram is left out: it never reaches a disk."""
    try:
        lines = (proc / "swaps").read_text().splitlines()[1:]
    except OSError:
        return []
    names = [line.split()[0] for line in lines if line.strip()]
    return [name for name in names if not name.startswith("/dev/zram")]


def few_arenas() -> None:
    """Let all threads share few heaps (mallopt(3), M_ARENA_MAX): for a process that is to be small rather than quick to allocate.
    Called first of all; without glibc it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return freed heap to the system (malloc_trim(3)); without glibc it does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _meminfo(proc: Path) -> dict[str, int]:
    fields = (line.split() for line in (proc / "meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) >= 2}


def _group_room(proc: Path, cgroup: Path) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controllers == "":
            base, limit, usage = cgroup, "memory.max", "memory.current"
            if not (cgroup / "cgroup.controllers").exists():
                continue
        elif "memory" in names:
            base, limit, usage = cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group == base.parent:
                break
            top, used = _number(group / limit), _number(group / usage)
            if top is None or used is None or top >= _UNLIMITED:
                continue
            found.append((top - used + _reclaimable(group), top))
    return found


def _reclaimable(group: Path) -> int:
    """Page cache that the group can give back at once."""
    facts = dict(line.split()[:2] for line in _lines(group / "memory.stat"))
    return int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
