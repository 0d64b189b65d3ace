"""Work on the emulated phone while nobody looks at it: wake-ups and memory."""

from __future__ import annotations

import time

from bench.phone_setting import EMULATED, Bench
from bench.report import row


def idle(bench: Bench) -> None:
    """Nobody looks at Work."""
    ours, agents = bench.pid("[g]uest=work"), bench.pid("twofold.cli agent [r]un")
    others = bench.phone.look(
        "pgrep -f '[t]wofold-vaultd|[t]wofold.network|[t]wofold-netd|[t]wofold.cli agent run|[t]wofold.switcher' || true"
    )
    everything = [ours, *(int(each) for each in others.split())]
    mine, inside = _per_minute(bench, ours, [ours], everything)
    memory = _pss(bench, ours)
    bench.rows.append(
        row(EMULATED + "agent, a workspace running: memory (PSS)", "MiB", [_pss(bench, agents)], {}, at_most=48)
    )
    bare = bench.bare_machine()
    (theirs,), within = _per_minute(bench, bare, [bare])
    other = _pss(bench, bare)
    bench.ask("turn", bare=False)
    bench.rows += [
        row(
            EMULATED + "idle workspace: QEMU's wake-ups in a minute",
            "",
            [mine[0]],
            {"bare QEMU": [theirs]},
            at_most=1,
        ),
        row(
            EMULATED + "idle workspace: wake-ups of the guest's own processors in a minute",
            "",
            [inside],
            {"bare QEMU": [within]},
            at_most=1,
        ),
        row(EMULATED + "idle workspace: wake-ups of all of Twofold", "", [mine[1]], {"bare QEMU": [theirs]}),
        row(EMULATED + "idle workspace: QEMU's memory (PSS)", "MiB", [memory], {"bare QEMU": [other]}, at_most=1),
    ]


def _per_minute(bench: Bench, machine: int, *groups: list[int]) -> tuple[list[float], float]:
    """How often the processes of each group slept and were woken, in a minute (proc_pid_status(5)), and the guest's processors,
    which say so by WFI (KVM's wfi_exit_stat, Documentation/virt/kvm in Linux)."""

    def count(pids: list[int]) -> dict[str, int]:
        files = " ".join(f"/proc/{pid}/task/*/status" for pid in pids)
        words = "/^Pid:/ { thread = $2 } /^voluntary/ { print thread, $2 }"
        lines = bench.phone.look(f"cat {files} 2>/dev/null | awk '{words}'").splitlines()
        return {thread: int(times) for thread, times in (line.split() for line in lines)}

    def inside() -> int:
        at = "/sys/kernel/debug"
        said = bench.phone.look(
            f"[ -d {at}/kvm ] || mount -t debugfs none {at}; cat {at}/kvm/{machine}-*/wfi_exit_stat"
        )
        return sum(int(each) for each in said.split())

    time.sleep(30)  # what was done last is over, and the switcher has let go of the screen
    before, slept, began = [count(each) for each in groups], inside(), time.monotonic()
    time.sleep(bench.rounds.idle)
    after, sleeps, took = [count(each) for each in groups], inside(), time.monotonic() - began
    woken = [
        sum(times - was.get(thread, 0) for thread, times in now.items()) for was, now in zip(before, after, strict=True)
    ]
    return [times * 60 / took for times in woken], (sleeps - slept) * 60 / took


def _pss(bench: Bench, pid: int) -> float:
    return int(bench.phone.look(f"awk '/^Pss:/ {{ print $2 }}' /proc/{pid}/smaps_rollup")) / 1024
