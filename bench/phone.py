"""`make bench-phone`: Work on the emulated phone. Everything is translated twice over or once, and no figure is a phone's.

The phone's times are taken in the phone (bench/phone_inside.py), but for the switch: that is seen on the phone's own screen,
which is looked at every few milliseconds from outside. The peer is the same guest image under QEMU alone, on the same phone.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shlex
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from bench.report import Row, report, row
from bench.setting import folder
from demo.stage import PERSON, TREE, Stage
from phone.build import handset
from phone.handset import Handset, Parts, Picture, differing, switched_on
from phone.person import EDGE, Person, at_home, in_work
from phone.software import software
from tests.harness.probe import NoMarks, pointing, status
from twofold.model.image import Arch
from twofold.platform.run import find, run

HOST = "10.0.2.2"  # by which the phone knows this machine
GUEST = 6, 94  # where the guest's screen begins on the phone's: column, row


@dataclass(frozen=True)
class Rounds:
    """How often; `idle` is in seconds."""

    switches: int = 24
    resumes: int = 5
    warm_up: int = 2
    idle: float = 60.0


NOT_BUILT = (
    "No rows, because they are not built: an application's launch beside bare QEMU and with the bloat workload in the phone; "
    "the guest saying that it can sleep, and wake-ups counted inside it."
)
QUICK = Rounds(6, 2, 1, 20.0)
_FILES = ("bench/__init__.py", "bench/bare.py", "bench/phone_inside.py")
_GROUP = "/sys/fs/cgroup/system.slice/twofold-shell.service/shell"
_START = f"""
mkdir -p /run/bench/built && mount -t erofs -o ro /dev/vdd /run/bench/built && mkfifo /run/bench/in /run/bench/out
chown -R user /run/bench/in /run/bench/out; cd /run/bench
(echo 0 >{_GROUP}/cgroup.procs
 owner="setpriv --reuid 1000 --regid 1000 --init-groups env $(tr '\\0' '\\n' </proc/$(pgrep -x mako)/environ)"
 exec $owner PYTHONPATH=/run/bench /usr/lib/twofold/bin/python -m bench.phone_inside /run/bench/built 0<>in 1<>out 2>log
) >/dev/null 2>&1 &
"""
_BELOW = (
    slice(GUEST[1] + 30, 1080, 4),
    slice(6, 534, 4),
)  # the guest's screen without the probe's marks, each fourth pixel
EMULATED = "emulated: "


class Bench:
    """One phone, one workspace; each part adds rows, or says in the notes why it could not."""

    def __init__(self, phone: Handset, console: Console, rounds: Rounds) -> None:
        self.phone, self.console, self.rounds = phone, console, rounds
        self.me = Person(phone, lambda name, picture: None)
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.boots: list[float] = []
        self._bare = False

    def ask(self, step: str, seconds: float = 400, **args: Any) -> Any:
        line = json.dumps({"do": step} | args)
        said = json.loads(
            self.phone.look(f"echo {shlex.quote(line)} >/run/bench/in; head -n 1 /run/bench/out", seconds)
        )
        if "error" in said:
            raise RuntimeError(f"{step}: {said['error']}")
        return said["ok"]

    def part(self, what: str, work: Callable[[], None]) -> None:
        began, known = time.monotonic(), len(self.rows)
        try:
            if self.ask("info", what="run") != "running":  # where a part before ended badly
                self.ask("start")
            work()
        except Exception as error:  # noqa: BLE001 - the other parts count all the same, and the notes say it
            self.notes.append(f"Not measured to its end: {what}: {error}")
        self.console.print(f"  {what}: {time.monotonic() - began:.0f} s")
        for one in self.rows[known:]:
            self.console.print(f"    {one.figure}: {one.ours:.3g} {one.unit} {one.peers or ''}")

    # -- parts ------------------------------------------------------------------------------------------------------------

    def prepare(self, url: str) -> None:
        up = self.me.at_home(300)
        self.rows.append(row(EMULATED + "power-on to the personal side", "s", [up], {}))
        self.me.still(120)
        with io.BytesIO() as packed:
            with tarfile.open(fileobj=packed, mode="w:gz") as tar:
                for name in _FILES:
                    tar.add(TREE / name, name)
            text = base64.b64encode(packed.getvalue()).decode()
        self.phone.look(f"mkdir -p /run/bench; echo {text} | base64 -d | tar -xz -C /run/bench")
        self.phone.look("until [ -S /run/user/1000/twofold/agent.sock ]; do sleep 0.3; done", 120)
        self.phone.look(_START)
        self.rows.append(row(EMULATED + "check-out", "s", [self.ask("check_out", url=url)], {}))
        self.boots.append(self.ask("start"))
        self.me.to_work(swipe=True)  # so that the guest has this screen's size
        self.me.desktop(240)
        self.me.to_personal(swipe=True)
        self.me.still(60)
        self.notes.append(
            f"accelerator in the phone: {self.ask('info', what='accelerator')}; {self.ask('doctor', name='processor share')}"
        )

    def idle(self) -> None:
        """Nobody looks at Work."""
        ours, agents = self._pid("[g]uest=work"), self._pid("twofold.cli agent [r]un")
        others = self.phone.look(
            "pgrep -f '[t]wofold-vaultd|[t]wofold.network|[t]wofold-netd|[t]wofold.cli agent run|[t]wofold.switcher' || true"
        )
        everything = [ours, *(int(each) for each in others.split())]
        mine = self._per_minute([ours], everything)
        memory = self._pss(ours)
        self.rows.append(
            row(EMULATED + "agent, a workspace running: memory (PSS)", "MiB", [self._pss(agents)], {}, at_most=48)
        )
        bare = self._bare_machine()
        theirs = self._per_minute([bare])[0]
        other = self._pss(bare)
        self.ask("turn", bare=False)
        self.rows += [
            row(
                EMULATED + "idle workspace: QEMU's wake-ups in a minute",
                "",
                [mine[0]],
                {"bare QEMU": [theirs]},
                at_most=1,
            ),
            row(EMULATED + "idle workspace: wake-ups of all of Twofold", "", [mine[1]], {"bare QEMU": [theirs]}),
            row(EMULATED + "idle workspace: QEMU's memory (PSS)", "MiB", [memory], {"bare QEMU": [other]}, at_most=1),
        ]

    def resume(self) -> None:
        suspends, resumes = [], []
        for _ in range(self.rounds.resumes):
            time.sleep(2)
            suspends.append(self.ask("finish", verb="suspend"))
            resumes.append(self.ask("start"))
        self.rows += [
            row(EMULATED + "resume to an answering agent", "s", resumes, {"our boot": self.boots}, at_most=0.1),
            row(EMULATED + "suspend, sealed and durable", "s", suspends, {}),
        ]

    def switch(self) -> None:
        self._bare_off()
        self.ask("probe")
        self.me.to_work(swipe=True)
        self.phone.until(lambda now: self._clock(now) is not None, 120, "the guest's marks")
        felt = pointing(self.phone.photograph(), *GUEST)
        work = self.phone.photograph()[_BELOW]
        retained, fresh, looks = [], [], []
        for number in range(self.rounds.warm_up + self.rounds.switches):
            self._swipe()
            self.phone.until(at_home, 60, "the personal side")
            time.sleep(1.0)
            first, second, look = self._to_work(work)
            if number >= self.rounds.warm_up:
                retained.append(first * 1000)
                fresh.append(second * 1000)
                looks.append(look * 1000)
            time.sleep(0.3)
        after = pointing(self.phone.photograph(), *GUEST)
        assert (after.touches, after.buttons) == (felt.touches, felt.buttons), "the guest felt the swipes"
        self.rows += [
            row(EMULATED + "swipe to the retained frame, 95 %", "ms", retained, {}, at_most=150, percentile=95),
            row(EMULATED + "swipe to a fresh frame, 95 %", "ms", fresh, {}, at_most=400, percentile=95),
            row(EMULATED + "swipe to the retained frame, median", "ms", retained, {}),
            row(EMULATED + "swipe to a fresh frame, median", "ms", fresh, {}),
        ]
        self.notes.append(
            "Swipes: from the finger's place that makes it one, on the phone's own screen, looked at every "
            f"{statistics.median(looks):.0f} ms. Retained: Work's colour and picture as they were left. Fresh: the clock "
            "that a probe in the guest draws every 20 ms, all the time, was seen to move twice since, so that the frame was "
            f"drawn after the gesture. The {2 * len(retained)} swipes reached the guest as no touch and no click."
        )

    # -- means ------------------------------------------------------------------------------------------------------------

    def _swipe(self) -> float:
        """The moment at which it is one."""
        x, y = EDGE
        self.phone.down(x, y)
        time.sleep(0.03)
        self.phone.move(x, y - 60)
        time.sleep(0.03)
        moment = time.monotonic()
        self.phone.move(x, y - 130)
        self.phone.up()
        return moment

    def _to_work(self, work: Picture) -> tuple[float, float, float]:
        """Seconds to the retained frame and to a fresh one, and between two looks; `work` is what Work looked like."""
        began, looks = self._swipe(), 0
        first, last, moved = 0.0, -1, 0
        while moved < 2:
            now, at = self.phone.photograph(), time.monotonic()
            looks += 1
            if not first and in_work(now) and differing(work, now[_BELOW]) < 0.02:
                first = at - began
            clock = self._clock(now)
            if first and clock is not None:
                moved += last not in (-1, clock)
                last = clock
            if at > began + 60:
                raise TimeoutError("Work's picture never moved")
        return first, at - began, (at - began) / looks

    def _clock(self, now: Picture) -> int | None:
        try:
            return status(now, *GUEST).clock if in_work(now) else None
        except NoMarks:
            return None

    def _bare_machine(self) -> int:
        """The peer's process; it runs, and ours stands still."""
        if not self._bare:
            self.ask("finish", verb="pause")
            boot = self.ask("bare_boot")
            self._bare = True
            self.rows.append(row(EMULATED + "boot to desktop and agent", "s", self.boots, {"bare QEMU": [boot]}))
            time.sleep(10)
        else:
            self.ask("turn", bare=True)
        return int(self.ask("bare_pid"))

    def _bare_off(self) -> None:
        if self._bare:
            self.ask("bare_off")
            self._bare = False

    def _pid(self, words: str) -> int:
        return int(self.phone.look(f"pgrep -f '{words}'").split()[-1])

    def _per_minute(self, *groups: list[int]) -> list[float]:
        """How often the processes of each group slept and were woken, in a minute (proc_pid_status(5))."""

        def count(pids: list[int]) -> dict[str, int]:
            files = " ".join(f"/proc/{pid}/task/*/status" for pid in pids)
            words = "/^Pid:/ { thread = $2 } /^voluntary/ { print thread, $2 }"
            lines = self.phone.look(f"cat {files} 2>/dev/null | awk '{words}'").splitlines()
            return {thread: int(times) for thread, times in (line.split() for line in lines)}

        time.sleep(15)  # what was done last is over
        before, began = [count(each) for each in groups], time.monotonic()
        time.sleep(self.rounds.idle)
        after, took = [count(each) for each in groups], time.monotonic() - began
        woken = [
            sum(times - was.get(thread, 0) for thread, times in now.items())
            for was, now in zip(before, after, strict=True)
        ]
        return [times * 60 / took for times in woken]

    def _pss(self, pid: int) -> float:
        return int(self.phone.look(f"awk '/^Pss:/ {{ print $2 }}' /proc/{pid}/smaps_rollup")) / 1024


@contextmanager
def prepared(console: Console, rounds: Rounds) -> Iterator[Bench]:
    with folder("phone") as home, Stage(home / "office", console) as office:
        built = office.image(Arch.ARM64)
        admin = office.server("127.0.0.1", HOST)
        office.publish(admin, built)
        system, raw = handset(), home / "raw.erofs"
        run([find("mkfs.erofs"), "--quiet", "-T0", "-x-1", "--all-root", raw, built.folder], timeout=300)
        disk = ["-drive", f"if=none,id=raw,file={raw},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=raw"]
        (home / "phone").mkdir()
        with switched_on(Parts(system, software(system), inspect=True), home / "phone", *disk) as phone:
            bench = Bench(phone, console, rounds)
            bench.prepare(admin.invite_device(PERSON).replace("127.0.0.1", HOST))
            yield bench


def main() -> int:
    words = argparse.ArgumentParser(description="Work on the emulated phone, measured.")
    parts = ("resume", "idle", "switch")
    words.add_argument("--only", action="append", choices=parts, help="one part; may be repeated")
    words.add_argument("--quick", action="store_true", help="a look, not figures")
    said = words.parse_args()
    chosen = tuple(said.only or parts)
    with prepared(Console(), QUICK if said.quick else Rounds()) as bench:
        for name in parts:
            if name in chosen:
                bench.part(name, getattr(bench, name))
    bench.notes.append(NOT_BUILT)
    if said.quick:
        bench.notes.insert(0, "A quick look: these are no figures.")
    path = report("phone" if chosen == parts else f"phone-{'-'.join(chosen)}", bench.rows, bench.notes)
    sys.stdout.write(f"written to {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
