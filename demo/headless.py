"""`make demo-headless`: the whole path without a person. Every step counts only when it was seen on the X server's pixels.

Leaves pictures and `timings.json` in out/demo/. Exit status 0 means that each step was seen.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from demo.desk import Desk
from demo.operations import Operations
from demo.stage import TREE, WORKSPACE, Stage
from demo.story import MOUSEPAD
from tests.harness.screen import Pixels
from twofold.model.errors import TwofoldError

OUT = TREE / "out" / "demo"
SWITCHES = 10


def main() -> int:
    console = Console(width=100)
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twofold-demo-headless"
    home.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(OUT, ignore_errors=True)
    console.print("\n[bold]Twofold[/]: the whole path, on an X server of its own\n")
    try:
        with Stage(home, console) as stage:
            _, admin, client = stage.ready()
            with Desk(stage, OUT, 1280, 800, phone=False) as desk:
                person = Person(stage, desk, client)
                person.admin = admin
                person.desktop()
                person.after_check_out()
            with Desk(stage, OUT, 412, 915, phone=True) as desk:
                person = Person(stage, desk, client)
                person.admin = admin
                person.phone()
                person.check_in()
            stage.write_times(OUT)
    except (TwofoldError, TimeoutError, AssertionError) as error:
        console.print(f"\n[red]The demo failed:[/] {error}\n  Logs: {home}\n  Pictures so far: {OUT}")
        return error.exit_code if isinstance(error, TwofoldError) else 1
    _print(console, stage.times)
    return 0


class Person(Operations):
    """What the person does, step by step."""

    keys_in_work = 0

    def desktop(self) -> None:
        desk = self.desk
        desk.open_editor()
        personal = desk.screen.copy()
        self.times["switcher_window"] = round(desk.open_switcher(), 3)
        self.stage.say("Switcher stands behind the personal side", self.times["switcher_window"])
        self.boot()
        self.launch(MOUSEPAD, by="keys")
        desk.hands.type("Dear team,\n\nthe figures for the third quarter are in the sheet.\n", 0.02)
        time.sleep(0.5)
        desk.shot("text-editor")
        self.launch("galculator", by="keys")
        desk.shot("calculator")
        self.close_front_window()
        self.launch_probe()
        self.stage.say("Two applications opened from the launcher", sum(self.times["app_launch"].values()))
        self.typing_and_switching(personal)
        self.stage.say(
            f"{SWITCHES} switches (median), each text where it belongs", statistics.median(self.times["switch"])
        )
        self.suspend_and_resume()

    def phone(self) -> None:
        desk = self.desk
        desk.open_editor()
        desk.open_switcher()
        desk.switch()
        desk.wait_said("live", True, 20)
        desk.wait_still(20)
        desk.shot("work")
        self.launch_probe()
        self.launch("lxterminal", by="touch")
        desk.shot("terminal")
        self.keys_in_work = desk.wait_reading().presses
        self.type_in_work("phone0 ")
        desk.shot("typed")
        self.switch_and_time("phone_switch", desk.screen.copy())
        self.stage.say("412 x 915: opened by touch, typed, switched", self.times["phone_switch"][0])
        self.suspend_and_resume()

    # -- steps --------------------------------------------------------------------------------------------------------

    def launch_probe(self) -> None:
        self.client.call("launch", workspace=WORKSPACE, app="twofold-probe")
        self.keys_in_work = self.desk.wait_reading(30).presses

    def close_front_window(self) -> None:
        """Alt+F4 belongs to the life that is in front: the guest's calculator closes, the switcher stays."""
        before = self.desk.screen.copy()
        self.desk.hands.key("F4", "Alt_L")
        self.desk.screen.wait(lambda now: float(np.mean(now != before)) > 0.03, 20, 0.01)
        self.desk.wait_still(20)
        assert self.desk.said["shown"], "Alt+F4 closed the switcher instead of the guest's window"

    def type_in_work(self, text: str) -> None:
        """Type, and see on the probe's strip that exactly so many keys arrived in the guest, ever."""
        self.keys_in_work += len(text)
        self.desk.hands.type(text, 0.02)
        deadline = time.monotonic() + 10
        while (now := self.desk.wait_reading()).presses < self.keys_in_work and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        now = self.desk.wait_reading()
        assert now.presses == self.keys_in_work, (
            f"{self.keys_in_work} keys were typed in Work; the guest saw {now.presses}"
        )

    def typing_and_switching(self, personal: Pixels) -> None:
        desk, expected = self.desk, ""
        self.keys_in_work = desk.wait_reading().presses
        self.type_in_work("business ")
        desk.shot("typed-in-work")
        work = desk.screen.copy()
        desk.switch()
        desk.screen.wait(lambda now: float(np.mean(now != personal)) < 0.02, 5)
        for number in range(SWITCHES):
            keys = desk_keys = f"personal{number} "
            desk.hands.type(desk_keys, 0.02)
            expected += keys
            if number == 0:
                time.sleep(0.3)
                desk.shot("typed-in-personal")
            self.switch_and_time("switch", work)
            self.type_in_work(f"business{number} ")
            work = desk.screen.copy()
            desk.switch()
            desk.screen.wait(lambda now: float(np.mean(now != personal)) < 0.03, 5)
        desk.hands.key("s", "Control_L")
        deadline = time.monotonic() + 5
        while desk.note.read_text().strip() != expected.strip() and time.monotonic() < deadline:
            time.sleep(0.05)
        arrived = desk.note.read_text().strip()
        assert arrived == expected.strip(), f"the personal editor holds {arrived!r}, not {expected!r}"
        desk.switch()
        desk.wait_still(10)

    def switch_and_time(self, name: str, work: Pixels) -> None:
        """Go to Work; time key press to the retained frame, and to a complete frame the guest drew after the press."""
        desk = self.desk
        if desk.said.get("shown"):
            desk.switch()
            desk.wait_said("shown", False, 5)
            time.sleep(0.3)
        ahead = self.client.call("time", workspace=WORKSPACE)
        offset = ahead["guest_unix_ms"] - ahead["host_unix_ms"]
        pressed_wall = time.time() * 1000
        pressed = desk.switch()
        sample = (slice(None, None, 8), slice(None, None, 8))
        reference = work[sample]
        retained = desk.screen.wait(lambda now: float(np.mean(now[sample] != reference)) < 0.03, 5)
        born = int(pressed_wall + offset)
        deadline = time.monotonic() + 5
        while True:
            reading = desk.reading()
            if reading is not None and reading.age(born) <= 0:
                break
            assert time.monotonic() < deadline, "no frame that the guest drew after the key press"
            time.sleep(0.001)
        self.times.setdefault(name, []).append(round(time.monotonic() - pressed, 4))
        self.times.setdefault(f"{name}_retained", []).append(round(retained - pressed, 4))

    def suspend_and_resume(self) -> None:
        desk, suffix = self.desk, "_phone" if self.desk.phone else ""
        before = desk.guest.copy()
        began = time.monotonic()
        self.client.finish("suspend", workspace=WORKSPACE)
        self.times[f"suspend{suffix}"] = round(time.monotonic() - began, 3)
        info = self.client.call("info", workspace=WORKSPACE)
        assert info["memory_stored"] and not info["whereabouts"]["in_memory"], info
        time.sleep(0.5)
        desk.shot("suspended")
        began = time.monotonic()
        job = self.client.call("start", workspace=WORKSPACE)
        desk.wait_said("live", True, 30)
        desk.screen.wait(lambda _: desk.reading() is not None, 30)
        self.times[f"resume_to_frame{suffix}"] = round(time.monotonic() - began, 3)
        self.wait_info("agent_up", 30)
        self.times[f"resume_to_agent{suffix}"] = round(time.monotonic() - began, 3)
        for _ in self.client.follow(job):
            pass
        desk.wait_still(20)
        desk.shot("resumed")
        strip = 64  # the probe's rows
        changed = float(np.mean(desk.guest[strip:] != before[strip:]))
        assert changed < 0.02, f"after the resume {changed:.1%} of the screen is not as it was"
        self.stage.say("Suspended; resumed to a live frame, text still there", self.times[f"resume_to_frame{suffix}"])


def _print(console: Console, times: dict[str, Any]) -> None:
    table = Table(title="Seconds", title_justify="left")
    for column in ("step", "median", "95 %", "n"):
        table.add_column(column)
    for step, value in times.items():
        if isinstance(value, list):
            table.add_row(step, f"{statistics.median(value):.3f}", f"{np.percentile(value, 95):.3f}", str(len(value)))
        elif isinstance(value, dict):
            for name, seconds in value.items():
                table.add_row(f"{step} {name}", f"{seconds:.3f}", "", "1")
        else:
            table.add_row(step, f"{value:.3f}" if isinstance(value, float) else str(value), "", "")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
