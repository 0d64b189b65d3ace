"""Where `make bench-phone` takes place: one emulated phone with one workspace, and the same guest image under QEMU alone in it.

What is measured is in a module a part: bench/phone_switch.py, phone_idle.py, phone_launch.py. The times that no photograph shows
are taken in the phone, by bench/phone_inside.py.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from bench.report import Row, row
from bench.setting import folder
from demo.stage import PERSON, TREE, Stage
from phone.build import handset
from phone.handset import Handset, Parts, switched_on
from phone.person import Person
from phone.software import software
from twofold.model.image import Arch
from twofold.model.policy import SUSPEND, Policy
from twofold.platform.run import find, run

HOST = "10.0.2.2"  # by which the phone knows this machine
EMULATED = "emulated: "


@dataclass(frozen=True)
class Rounds:
    """How often; `idle` is in seconds."""

    switches: int = 24
    resumes: int = 5
    darks: int = 3
    launches: int = 7
    busy: int = 5
    warm_up: int = 2
    idle: float = 60.0


QUICK = Rounds(6, 2, 1, 3, 1, 1, 20.0)
_FILES = ("bench/__init__.py", "bench/bare.py", "bench/phone_inside.py", "bench/bloat")
_GROUP = "/sys/fs/cgroup/system.slice/twofold-shell.service/programs"  # of its owner's programs
_START = f"""
mkdir -p /run/bench/built && mount -t erofs -o ro /dev/vdd /run/bench/built && mkfifo /run/bench/in /run/bench/out
chown -R user /run/bench/in /run/bench/out; cd /run/bench
(echo 0 >{_GROUP}/cgroup.procs
 owner="setpriv --reuid 1000 --regid 1000 --init-groups env $(tr '\\0' '\\n' </proc/$(pgrep -x mako)/environ)"
 exec $owner PYTHONPATH=/run/bench /usr/lib/twofold/bin/python -m bench.phone_inside /run/bench/built 0<>in 1<>out 2>log
) >/dev/null 2>&1 &
"""


class Bench:
    """One phone, one workspace; each part adds rows, or says in the notes why it could not."""

    def __init__(self, phone: Handset, console: Console, rounds: Rounds) -> None:
        self.phone, self.console, self.rounds = phone, console, rounds
        self.me = Person(phone, lambda name, picture: None)
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self.boots: list[float] = []
        self.bare_runs = False

    def ask(self, step: str, seconds: float = 620, **args: Any) -> Any:
        line = json.dumps({"do": step} | args)
        said = json.loads(
            self.phone.look(f"echo {shlex.quote(line)} >/run/bench/in; head -n 1 /run/bench/out", seconds)
        )
        if "error" in said:
            raise RuntimeError(f"{step}: {said['error']}")
        return said["ok"]

    def part(self, what: str, work: Callable[[Bench], None]) -> None:
        began, known = time.monotonic(), len(self.rows)
        try:
            if self.ask("info", what="run") != "running":  # where a part before ended badly
                self.ask("start")
            work(self)
        except Exception as error:  # noqa: BLE001 - the other parts count all the same, and the notes say it
            self.notes.append(f"Not measured to its end: {what}: {error}")
        self.console.print(f"  {what}: {time.monotonic() - began:.0f} s")
        for one in self.rows[known:]:
            self.console.print(f"    {one.figure}: {one.ours:.3g} {one.unit} {one.peers or ''}")

    def prepare(self, url: str) -> None:
        up = self.me.at_home(300)
        self.rows.append(row(EMULATED + "power-on to the personal side", "s", [up], {}))
        self.me.still(120)
        with io.BytesIO() as packed:
            with tarfile.open(fileobj=packed, mode="w:gz") as tar:
                for name in _FILES:
                    tar.add(TREE / name, name, filter=_source)
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

    def bare_machine(self) -> int:
        """The peer's process; it runs, and ours stands still."""
        if not self.bare_runs:
            self.ask("finish", verb="pause")
            boot = self.ask("bare_boot")
            self.bare_runs = True
            self.rows.append(row(EMULATED + "boot to desktop and agent", "s", self.boots, {"bare QEMU": [boot]}))
            time.sleep(10)
        else:
            self.ask("turn", bare=True)
        return int(self.ask("bare_pid"))

    def bare_off(self) -> None:
        if self.bare_runs:
            self.ask("bare_off")
            self.bare_runs = False

    def pid(self, words: str) -> int:
        return int(self.phone.look(f"pgrep -f '{words}'").split()[-1])


def _source(file: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in file.name else file


@contextmanager
def prepared(console: Console, rounds: Rounds) -> Iterator[Bench]:
    with folder("phone") as home, Stage(home / "office", console) as office:
        built = office.image(Arch.ARM64)
        admin = office.server("127.0.0.1", HOST)
        office.publish(admin, built, Policy(screen_off=SUSPEND))
        system, raw = handset(), home / "raw.erofs"
        run([find("mkfs.erofs"), "--quiet", "-T0", "-x-1", "--all-root", raw, built.folder], timeout=300)
        disk = ["-drive", f"if=none,id=raw,file={raw},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=raw"]
        (home / "phone").mkdir()
        with switched_on(Parts(system, software(system), inspect=True), home / "phone", *disk) as phone:
            bench = Bench(phone, console, rounds)
            bench.prepare(admin.invite_device(PERSON).replace("127.0.0.1", HOST))
            yield bench
