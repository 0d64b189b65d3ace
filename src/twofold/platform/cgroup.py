"""The business VM's share of a busy machine: control groups where this user may, else the best the system offers.

What the VM waits for gets the same share: the process that keeps its disks is in its group, agent and switcher have one of
their own. Whoever looks at the personal side gets that side's programs: a VM that nobody looks at has no more than they
(docs/decisions/0045). TWOFOLD_NO_SHARE=1 switches all of it off (see `make bench-busy`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

WEIGHT, USUAL = 10_000, 100  # cgroup v2: 1 to 10000
SHARES = 102_400  # cgroup v1: the same factor over its usual 1024
ROOT = Path("/sys/fs/cgroup")
SWITCH = "TWOFOLD_NO_SHARE"


@dataclass(frozen=True)
class Share:
    """What a process was given. `kind`: `v2`, `v1`, `autogroup`, `nice`, `none`. `says` is one sentence for `doctor`."""

    kind: str
    says: str
    memory_protected: bool = False
    swap_excluded: bool = False


def favour(pid: int, name: str, memory: int = 0, root: Path = ROOT, proc: Path = Path("/proc")) -> Share:
    """Give process `pid` a high share of the processor, and protect `memory` bytes of it from reclaim where allowed.

    Never fails: the answer says what was obtained. `name` is a private group's name, one per machine; several processes may
    share it.
    """
    if os.environ.get(SWITCH, "") not in ("", "0"):
        return Share("none", f"The VM has no more of the processor than any program: {SWITCH} is set.")
    for attempt in (_unified, _legacy):
        share = attempt(pid, name, memory, root, proc)
        if share is not None:
            return share
    return _scheduler(pid, proc)


def prefer(name: str, *, front: bool, root: Path = ROOT, proc: Path = Path("/proc")) -> None:
    """The person looks at this VM, which gets its high share of the processor, or at something else, and it has the usual one.

    Only where the group is this user's own (cgroup v2); never fails.
    """
    for parent in _delegated_unified(root, proc):
        weight = parent / f"vm-{name}" / "cpu.weight"
        if weight.exists():
            _write(weight, WEIGHT if front else USUAL)


def release(name: str, root: Path = ROOT, proc: Path = Path("/proc")) -> None:
    """Remove the groups that `favour` made, once the last of their processes has ended."""
    for parent in _delegated_unified(root, proc) + [root / kind / "twofold" for kind in ("cpu", "memory")]:
        try:
            (parent / f"vm-{name}").rmdir()
        except OSError:
            continue  # never made, or still in use: an empty group costs nothing


def _unified(pid: int, name: str, memory: int, root: Path, proc: Path) -> Share | None:
    for parent in _delegated_unified(root, proc):
        group = parent / f"vm-{name}"
        if not (_make(group) and (group / "cpu.weight").exists() and _write(group / "cpu.weight", WEIGHT)):
            continue
        protected = bool(memory) and _write(group / "memory.low", memory) and _kept(parent, root)
        swapless = _write(group / "memory.swap.max", 0)
        if not _write(group / "cgroup.procs", pid):
            continue
        says = f"The VM has processor weight {WEIGHT} of cgroup v2 ({USUAL} is usual, and what it has while nobody looks at it)"
        return Share("v2", says + _memory_words(protected=protected, swapless=swapless), protected, swapless)
    return None


def _kept(group: Path, root: Path) -> bool:
    """Whether memory may be kept for what is in this group: each group above gives of what it was promised itself."""
    base = root if (root / "cgroup.controllers").exists() else root / "unified"
    above = [group, *group.parents]
    return all(_words(each / "memory.low") not in ([], ["0"]) for each in above[: above.index(base)])


def _delegated_unified(root: Path, proc: Path) -> list[Path]:
    """Groups in which this user may make others: the one `setup-cgroup` made, then those systemd delegated to us."""
    base = root if (root / "cgroup.controllers").exists() else root / "unified"
    found = [base / "twofold"]
    for line in _lines(proc / "self" / "cgroup"):
        if line.startswith("0::"):
            own = base / line[3:].lstrip("/")
            found += [group for group in (own, *own.parents) if group.is_relative_to(base) and group != base]
    return [group for group in found if os.access(group, os.W_OK) and "cpu" in _words(group / "cgroup.subtree_control")]


def _legacy(pid: int, name: str, memory: int, root: Path, proc: Path) -> Share | None:
    del proc
    group = root / "cpu" / "twofold" / f"vm-{name}"
    if not (os.access(group.parent, os.W_OK) and _make(group)):
        return None
    # The parent's own shares count against the rest of the machine; ours only among our machines.
    _write(group / "cpu.shares", SHARES)
    if not (_write(group / "cgroup.procs", pid) or _write(group / "tasks", pid)):
        return None
    kept = root / "memory" / "twofold" / f"vm-{name}"
    protected = False
    if memory and os.access(kept.parent, os.W_OK) and _make(kept):
        _write(kept / "memory.soft_limit_in_bytes", memory)
        _write(kept / "memory.swappiness", 0)  # swapped last; v1 cannot promise never
        protected = _write(kept / "cgroup.procs", pid)
    outer = _words(group.parent / "cpu.shares")
    says = f"The VM has {outer[0] if outer else 'its own'} processor shares of cgroup v1 (1024 is usual)"
    return Share("v1", says + _memory_words(protected=protected, swapless=False), protected)


def _scheduler(pid: int, proc: Path) -> Share:
    """Without a group: the session's autogroup (sched(7)) decides first, then nice; both need a privilege to raise."""
    try:
        (proc / str(pid) / "autogroup").write_text("-20")
    except OSError:
        pass
    else:
        return Share(
            "autogroup", "The VM's session is preferred by the scheduler's autogroup (nice -20); no control group."
        )
    try:
        os.setpriority(os.PRIO_PROCESS, pid, -10)
    except OSError:
        return Share(
            "none",
            "The VM has no more of the processor than any program, since this user may not raise it."
            "  Once, as root:  tools/setup-cgroup USER",
        )
    return Share("nice", "The VM has nice -10; no control group could be used.")


def _memory_words(*, protected: bool, swapless: bool) -> str:
    parts = ["its memory is reclaimed last"] * protected + ["it is kept out of swap"] * swapless
    return "".join(f"; {part}" for part in parts) + "."


def _make(group: Path) -> bool:
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return False
    return True


def _write(path: Path, value: int) -> bool:
    try:
        path.write_text(str(value))
    except OSError:
        return False
    return True


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
