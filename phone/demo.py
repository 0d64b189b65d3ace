"""`make demo-phone`: one person, two emulated phones, one of them lost. A step counts only when a photograph of the phone's own
screen, or the company's server, shows it.

Pictures and `timings.json` go to out/phone/. All of it is emulated: no figure from here is a phone's. What is not built is
named at the end (`NOT_BUILT`) and never shown.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from demo.line import Relay, relay
from demo.stage import PERSON, TREE, WORKSPACE, Stage
from phone import build
from phone.handset import Handset, NeverSeenError, Parts, Picture, differing, switched_on
from phone.person import NOTICE, SERVER, TAP, WORK, Person, in_work, line, reads
from phone.software import software
from twofold.model.errors import TwofoldError
from twofold.model.image import Arch
from twofold.model.policy import Policy

OUT = TREE / "out" / "phone"
HOST = "10.0.2.2"  # by which a phone knows the machine that it is emulated on
TERMINAL = 3  # the terminal's place on the sheet
TEXT = "meet at nine\n"
SLOW = 420.0  # seconds in which the business desktop must stand; ten times what a quiet machine takes
OURS = (
    ".local/state/twofold",
    ".cache/twofold",
    ".agent.log",
    ".switcher.log",
    ".local/state",
    ".local",
    ".cache",
    ".",
)
NOT_BUILT: tuple[str, ...] = ()


def main() -> int:
    console = Console(width=100)
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twofold-demo-phone"
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(OUT, ignore_errors=True)
    console.print("\n[bold]Twofold[/]: Work on an emulated phone; every second is an emulated one\n")
    try:
        with ExitStack() as undo:
            show = Show(undo, home, console)
            show.second_enrols()
            show.first_phone()
            show.second_phone()
            show.first_comes_back()
            show.office.write_times(OUT)
    except (TwofoldError, NeverSeenError, TimeoutError, AssertionError) as error:
        console.print(f"\n[red]The demo failed:[/] {error}\n  Logs: {home}\n  Pictures so far: {OUT}")
        return 1
    for each in NOT_BUILT:
        console.print(f"  Not built, and so not shown: {each}")
    console.print(f"  Pictures and timings.json: {OUT}\n")
    return 0


class Show:
    """The company's side runs here; each phone has a folder, a line to the server, and is on within an act."""

    def __init__(self, undo: ExitStack, home: Path, console: Console) -> None:
        self.home = home
        self.office = undo.enter_context(Stage(home / "office", console))
        self.times, self._say = self.office.times, self.office.say
        self._shots = count(1)
        built = self.office.image(Arch.ARM64)
        self.admin = self.office.server("127.0.0.1", HOST)
        self.office.publish(self.admin, built, Policy(keys_leave=True, notifications="full"))
        self.lines: dict[str, Relay] = {
            name: undo.enter_context(relay(self.admin.place.port)) for name in ("first", "second")
        }
        system = build.handset()
        self.parts = Parts(system, software(system))
        self.typed: Picture | None = None

    # -- acts -------------------------------------------------------------------------------------------------------------

    def second_enrols(self) -> None:
        """A phone that lies in a drawer: only to a device that is known before the loss can keys be given."""
        with self._on("second") as me:
            self.enrol(me, "second")
            me.leave_terminal()

    def first_phone(self) -> None:
        with self._on("first") as me:
            self.enrol(me, "first")
            self.check_out(me, "first")
            self.work(me, "first", "Started by touch: the business desktop on the phone's own screen")
            self.times["launch"] = round(me.open(TERMINAL), 1)
            me.shot("application")
            self._say("An application opened by touch", self.times["launch"])
            me.into_text()
            me.touch_type("tee note\n" + TEXT)
            me.phone.until(lambda now: reads(now, 2, line(now, 1)), 60, "the text, and the guest's answer below it")
            me.still(60)
            self.typed = line(me.phone.photograph(), 1)
            me.shot("typed")
            self._say("Typed on the on-screen keyboard, which came by itself; the guest made room for it")
            self.back_and_forth(me)
            self.notified(me)
            self.replicate(me)
            self.give_key(me)
            self.lines["first"].cut()
        self._say("The phone is lost: its line and its power are cut")
        self.kept = belongings(self.home / "first")

    def enrol(self, me: Person, name: str) -> None:
        """In the owner's terminal, with a keyboard plugged in: nobody types an invitation's 240 letters by touch."""
        url = self.lines[name].address(self.admin.invite_device(PERSON)).replace("127.0.0.1", HOST)
        known = len(self.admin.list_devices())
        me.terminal(f"twofold enrol --name {name} '{url}'")
        until(lambda: len(self.admin.list_devices()) > known, 180, "the enrolment")
        self._say(f"Enrolled as a device: {name}")
        me.still(60)

    def check_out(self, me: Person, name: str) -> None:
        """In the terminal that is open."""
        began = time.monotonic()
        me.phone.type(f"twofold checkout {WORKSPACE}\n", 0.05)
        until(
            lambda: self._row()["status"] == "checked-out" and self._row()["device_name"] == name, 300, "the check-out"
        )
        self._note("check_out", name, time.monotonic() - began)
        me.still(120)
        me.shot("checked-out")
        self._say("Checked out to the phone", time.monotonic() - began)
        me.phone.type("echo bread >list; sync; ls\n", 0.05)
        me.still(60)
        me.leave_terminal()

    def work(self, me: Person, name: str, said: str) -> None:
        self._note("switch_to_page", name, me.to_work())
        me.shot("work-is-off")
        began = time.monotonic()
        me.press(590)
        me.desktop(SLOW)
        self._note("start_to_desktop", name, time.monotonic() - began)
        me.shot("business")
        self._say(said, time.monotonic() - began)

    def back_and_forth(self, me: Person) -> None:
        self.times["switch_back"] = [round(me.to_personal(swipe=True), 2)]
        me.shot("personal-again")
        self.times["switch"] = [round(me.to_work(swipe=True), 2)]
        self._say("By the swipe to the personal side, and to Work again", self.times["switch"][0])

    def notified(self, me: Person) -> None:
        """A program in Work has something to say while its owner is elsewhere."""
        me.phone.key("ctrl", down=True)
        me.phone.type("d")
        me.phone.key("ctrl", down=False)
        me.phone.type("sleep 30; notify-send -a LXTerminal 'Nine' 'Room 4'\n", 0.05)
        # A finger is quicker than sixty keys: what the guest has not heard when Work goes is typed for nobody.
        me.still(60)
        me.to_personal(swipe=True)
        me.still(20, 1)
        before = me.phone.photograph()
        me.phone.until(lambda now: differing(before[NOTICE], now[NOTICE]) > 0.3, 120, "the notification")
        me.shot("notification")
        touched = time.monotonic()
        me.phone.tap(*TAP)
        me.phone.until(in_work, 60, "Work")
        self.times["notification_to_work"] = round(time.monotonic() - touched, 2)
        typed = self.typed
        assert typed is not None
        me.phone.until(lambda now: reads(now, 1, typed), 60, "the terminal that it came from")
        me.still(60)
        me.shot("notification-tapped")
        self._say(
            "A notification of Work's on the personal side; a tap leads there", self.times["notification_to_work"]
        )

    def replicate(self, me: Person) -> None:
        before = me.phone.photograph()
        me.phone.tap(*SERVER)
        me.phone.changed(before, 60, 0.02)
        me.shot("about-the-back-up")
        began = time.monotonic()
        me.press(100)
        until(lambda: self._row()["head"], 400, "the back up")
        self.times["back_up"] = round(time.monotonic() - began, 1)
        me.still(60)
        me.shot("backed-up")
        self._say("Backed up to the server, by touch", self.times["back_up"])

    def give_key(self, me: Person) -> None:
        """In the owner's terminal; the key is what the second phone's `twofold disk key` says, here as the server lists it."""
        row = next(row for row in self.admin.list_devices() if row["name"] == "second")
        head = self._row()["head"]
        me.to_personal()
        me.still(60)  # the keyboard goes with Work
        me.terminal(f"twofold backup {WORKSPACE} --for {row['wrap_public']}")
        until(lambda: self._row()["head"] != head, 300, "the back up with a key for the second phone")
        me.still(60)
        me.shot("key-given")
        self._say("Backed up once more, with a key for the owner's second phone")

    def second_phone(self) -> None:
        number = self._row()["number"]
        with self._on("second") as me:
            self.admin.break_lease(number, self.admin.loss(number)["loss"], "the phone was lost")
            me.terminal()
            self.check_out(me, "second")
            self.work(me, "second", "The second phone carries on")
            me.open(TERMINAL)
            me.into_text()
            me.touch_type("cat note\n")
            assert self.typed is not None
            typed = self.typed
            me.phone.until(lambda now: reads(now, 1, typed), 120, "the saved text")
            me.shot("same-text")
            self._say("The saved text is there, pixel for pixel")

    def first_comes_back(self) -> None:
        number, device = self._row()["number"], self._device("first")
        for verb in ("lock", "wipe"):
            self.admin.ask(number, verb, device=device)
        self.lines["first"].mend()
        with self._on("first") as me:
            began = time.monotonic()
            until(lambda: self._receipts(number, device) >= {"wipe"}, 300, "the wipe's receipt")
            self.times["back_to_wiped"] = round(time.monotonic() - began, 1)
            time.sleep(5)
            before = me.phone.photograph()
            me.phone.tap(*WORK)
            me.phone.changed(before, 60, 0.2)
            me.still(60)
            assert not in_work(me.phone.photograph()), "the workspace's colour is still there"
            me.shot("wiped")
            self._say(f"Came back: {', '.join(sorted(self._receipts(number, device)))}", self.times["back_to_wiped"])
        found = belongings(self.home / "first")
        assert found == self.kept, {
            name for name in found.keys() | self.kept.keys() if found.get(name) != self.kept.get(name)
        }
        self._say(f"Nothing of its owner's changed: {len(found)} files and folders")

    # -- means ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _on(self, name: str) -> Iterator[Person]:
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        with switched_on(self.parts, folder) as phone:
            me = Person(phone, lambda what, picture: self._keep(f"{name}-{what}", picture))
            up = me.at_home(300)
            me.still(120)
            self._note("power_on_to_personal", name, up)
            me.shot("personal")
            self._say(f"Power-on to the personal side: {name}", up)
            yield me

    def _keep(self, name: str, picture: Picture) -> None:
        OUT.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(OUT / f"{next(self._shots):02d}-{name}.png")

    def _note(self, step: str, name: str, seconds: float) -> None:
        self.times.setdefault(step, {})[name if name not in self.times[step] else f"{name} again"] = round(seconds, 1)

    def _row(self) -> dict[str, Any]:
        return self.admin.find_workspace(PERSON, WORKSPACE)

    def _device(self, name: str) -> str:
        return next(str(row["device"]) for row in self.admin.list_devices() if row["name"] == name)

    def _receipts(self, number: int, device: str) -> set[str]:
        """What that device says it did."""
        rows = self.admin.list_asked(number)
        return {
            str(row["verb"])
            for row in rows
            if row["device"] == device and (row["receipt"] or {}).get("result") == "done"
        }


def until(seen: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.3)


def belongings(phone: Path) -> dict[str, str]:
    """Everything in the owner's home on a phone that is off, but ours: rights, size, time of change and content, each as text."""
    copy = phone / "looked-at.raw"
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", phone / "storage.raw", copy], check=True)
    subprocess.run(
        ["e2fsck", "-fy", copy], capture_output=True, check=False
    )  # the power was cut: play the journal back
    found: dict[str, str] = {}

    def look(folder: str) -> None:
        said = _debugfs(copy, f'ls -p "/user/{folder}"')
        for inode, mode, owner, group, name, size in re.findall(r"/(\d+)/(\d+)/(\d+)/(\d+)/([^/]+)/(\d*)/", said):
            path = f"{folder}/{name}".removeprefix("./")
            if name in (".", "..") or path in OURS[:4]:
                continue
            stat = _debugfs(copy, f"stat <{inode}>")
            changed = "" if path in OURS else "".join(re.findall(r"mtime: (\S+)", stat))
            text = _debugfs(copy, f"cat <{inode}>") if mode.startswith("10") else ""
            found[path] = f"{mode} {owner} {group} {size if text else ''} {changed} {text}"
            if mode.startswith("04"):
                look(path)

    look(".")
    copy.unlink()
    return found


def _debugfs(disk: Path, request: str) -> str:
    done = subprocess.run(["debugfs", "-R", request, disk], capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


__all__ = ["Handset", "Show", "belongings", "main"]

if __name__ == "__main__":
    sys.exit(main())
