"""`make demo-roam`: one person, two devices, one of them lost. Every step counts only when it was seen.

Work on laptop A with the real guest, save, back up; A is cut off, its owner works on, and its battery ends; desktop B goes on
from the last back up with the saved text there; A comes back late and ends up as a branch; A's key opens nothing that B wrote; B
is wiped and nothing of its owner's has changed.

The cut is real. Run by `tools/demo-roam` as root, each device lives in a network namespace and its cable's link goes down. Run as
an ordinary user (as CI does), each reaches the server through a relay that from then on passes nothing and closes nothing
(`demo.line`). The battery's end is SIGKILL to A's agent, machine and vault process, in one moment and in the middle of its work.
Pictures and `timings.json` go to out/demo-roam/.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich.console import Console

from demo import thief
from demo.desk import Desk
from demo.line import Cable, Line, relay
from demo.stage import PERSON, TREE, WORKSPACE, Stage
from demo.story import MOUSEPAD, REPORT, Story, require_same
from tests.harness.belongings import OURS, belongings, settle
from twofold.agent.client import Client
from twofold.agent.store import KEY, VAULT
from twofold.model.errors import ConflictError, RefusedError, TwofoldError
from twofold.model.policy import Policy
from twofold.platform.peers import peer
from twofold.vault.process import RECORD

_MOMENT = 4.0  # seconds in which the server answers, where a device reaches it
OUT = TREE / "out" / "demo-roam"
SAVED = "Dear team,\n\nthe figures for the third quarter are in the sheet.\n"
LATE = "What was written on the train, where there is no network.\n"
NEW = "And this was added at home, on the other machine.\n"


@dataclass
class Device:
    """A machine of the person's: its own home folder, agent, switcher and screen."""

    owner: Path  # the person's home folder on it; ours is below, in OURS
    stage: Stage
    line: Line
    client: Client
    story: Story
    found: dict[str, str]  # what lay in the owner's home before we came

    @property
    def workspace(self) -> Path:
        return self.stage.dirs.workspace(WORKSPACE)


def main() -> int:
    console = Console(width=100)
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "twofold-demo-roam"
    home.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(OUT, ignore_errors=True)
    console.print("\n[bold]Twofold[/]: one person, two devices, one of them lost\n")
    try:
        with ExitStack() as undo:
            office = undo.enter_context(Stage(home / "office", console))
            orders = os.environ.get("TWOFOLD_ORDERS")
            Roam(undo, office, home, Path(orders) if orders else None).play()
            office.write_times(OUT)
    except (TwofoldError, TimeoutError, AssertionError) as error:
        console.print(f"\n[red]The demo failed:[/] {error}\n  Logs: {home}\n  Pictures so far: {OUT}")
        return error.exit_code if isinstance(error, TwofoldError) else 1
    console.print(f"\n  Pictures of each act: {OUT}\n")
    return 0


class Roam:
    """`office` has the server; `orders` is the pipe to root's hands, or None where there are none."""

    def __init__(self, undo: ExitStack, office: Stage, home: Path, orders: Path | None) -> None:
        self._undo, self._office, self._home, self._orders = undo, office, home, orders
        self._shots = count(1)
        self._times, self._say = office.times, office.say

    def play(self) -> None:
        office = self._office
        began = time.monotonic()
        host = "127.0.0.1" if self._orders is None else os.environ["TWOFOLD_HOST"]
        built, self._admin = office.image(), office.server(host)
        office.publish(self._admin, built, Policy(keys_leave=True))
        a = self._device("a", "Alex's laptop")
        b = self._device("b", "Alex's PC at home")
        self._work_and_back_up(a, b)
        self._lose(a)
        self._carry_on(a, b)
        self._come_back(a, b)
        self._pry(a, b)
        self._wipe(b)
        self._times["whole"] = round(time.monotonic() - began, 1)

    # -- acts -------------------------------------------------------------------------------------------------------------

    def _work_and_back_up(self, a: Device, b: Device) -> None:
        story, desk = a.story, a.story.desk
        a.stage.checkout(a.client)
        desk.open_switcher()
        story.boot("boot_a")
        story.launch(MOUSEPAD, by="keys")
        self._blank = story.text()
        desk.hands.type(SAVED, 0.02)
        story.save_as(REPORT)
        self._saved = story.text()
        desk.shot("saved")
        sent = a.stage.job(
            "back_up_a", "A: backed up, with a key for B", a.client, "backup", key=b.client.call("device")["key"]
        )
        assert (sent["kind"], sent["frozen"]) == ("line", True), sent
        time.sleep(0.3)
        desk.shot("backed-up")
        self._number = self._admin.find_workspace(PERSON, WORKSPACE)["number"]

    def _lose(self, a: Device) -> None:
        story, desk = a.story, a.story.desk
        a.client.call("backups", workspace=WORKSPACE, deadline=_MOMENT)
        a.line.cut()
        try:
            a.client.call("backups", workspace=WORKSPACE, deadline=_MOMENT)
            raise AssertionError("A still reaches the server")
        except TwofoldError as away:
            self._say(f"A: its network is gone ({away.code})")
        desk.hands.type(LATE, 0.02)
        story.save()
        desk.shot("works-on-offline")
        key = (a.workspace / KEY).read_bytes()
        machine, agent, vault = int(story.info("pid")), agent_of(a.client), vault_of(a.stage)
        for pid in (agent, machine, vault):
            os.kill(pid, signal.SIGKILL)
        a.client.close()
        until(lambda: gone(agent) and gone(machine) and gone(vault))
        assert (a.workspace / KEY).read_bytes() == key
        time.sleep(2.2)  # the switcher gives its agent a moment before it speaks of it
        desk.shot("battery-empty")
        self._say("A: worked on offline, saved; then its battery ended")

    def _carry_on(self, a: Device, b: Device) -> None:
        admin, story, desk = self._admin, b.story, b.story.desk
        try:
            b.client.finish("checkout", workspace=WORKSPACE)
            raise AssertionError("B was given what A holds")
        except ConflictError as held:
            self._say("B: refused while A has the lease")
            assert "laptop" in held.happened, held.happened
        loss = admin.loss(self._number)
        admin.break_lease(self._number, loss["loss"], "lost on a train")
        self._say(f"The lease of {loss['device_name']} was broken")
        began = time.monotonic()
        done = b.stage.job("checkout_b", "B: checked out, from A's back up", b.client, "checkout")
        assert done["from"] > 0, done
        desk.open_switcher()
        story.boot("boot_b")
        self._times["lost_to_desktop"] = round(time.monotonic() - began, 3)
        story.launch(MOUSEPAD, by="keys")
        story.open(REPORT)
        require_same(story.text(), self._saved, self._blank, "the report on B")
        desk.shot("same-text")
        self._say("B: the saved text is there", self._times["lost_to_desktop"])
        desk.hands.key("End", "Control_L")
        desk.hands.type(NEW, 0.02)
        story.save()
        sent = b.stage.job("back_up_b", "B: went on, saved, backed up", b.client, "backup")
        assert sent["kind"] == "line", sent
        self._head = sent["id"]
        time.sleep(0.3)
        desk.shot("carried-on")

    def _come_back(self, a: Device, b: Device) -> None:
        a.line.mend()
        desk, began = a.story.desk, time.monotonic()
        a.client = a.story.client = self._agent("a", a.stage, a.line)
        until(lambda: (a.story.info("error") or {}).get("code") == "refused", 60)
        self._times["late_to_told"] = round(time.monotonic() - began, 3)
        time.sleep(1)
        desk.shot("late-and-told")
        try:
            a.client.finish("start", workspace=WORKSPACE)
            raise AssertionError("A runs what was taken from it")
        except RefusedError as taken:
            self._say(f"A: back, and told: {taken.happened}", self._times["late_to_told"])
        sent = a.stage.job("back_up_late", "A: what only it had is kept, as a branch", a.client, "backup")
        assert sent["kind"] == "branch", sent
        time.sleep(0.5)
        desk.shot("kept-as-a-branch")
        rows = {row["id"]: row for row in self._admin.list_generations(self._number)}
        assert rows[sent["id"]]["kind"] == "branch"
        assert rows[self._head]["kind"] == "line"
        assert self._admin.find_workspace(PERSON, WORKSPACE)["head"] == self._head, "the line is B's alone"

    def _pry(self, a: Device, b: Device) -> None:
        """What a thief has of A, on what lies on B's disk; first on A's own, so that it is known to work."""
        began = time.monotonic()
        mine, theirs = a.stage.dirs.state / "device", b.stage.dirs.state / "device"
        served = self._admin.keys(self._number)
        assert served is not None
        keys = thief.epoch_keys(mine, thief.read(a.workspace / KEY))
        for document in (thief.read(b.workspace / KEY), served):
            keys |= thief.epoch_keys(mine, document)
        own = thief.attempt(a.workspace / VAULT, keys, LATE.encode())
        assert own.found and own.opened == own.there, f"the thief's tools do not work: {own}"
        pried = thief.attempt(b.workspace / VAULT, keys, NEW.encode())
        rightful = thief.attempt(
            b.workspace / VAULT, thief.epoch_keys(theirs, thief.read(b.workspace / KEY)), NEW.encode()
        )
        assert rightful.found and rightful.opened == rightful.there, f"B's own key does not open it: {rightful}"
        fresh = {epoch: slots for epoch, slots in pried.there.items() if epoch not in own.there}
        assert fresh and not any(pried.opened.get(epoch) for epoch in fresh) and not pried.found, pried
        self._times["thief"] = {"of_a": own.opened, "of_b": fresh, "opened_of_b": 0}
        words = f"A's key opens {sum(own.opened.values())} blocks of A's, 0 of {sum(fresh.values())} that B wrote"
        self._say(words, time.monotonic() - began)

    def _wipe(self, b: Device) -> None:
        desk, before = b.story.desk, belongings(b.owner)
        info = b.client.call("info", workspace=WORKSPACE)
        asked, began = self._admin.ask(self._number, "wipe"), time.monotonic()
        until(lambda: not (b.workspace / KEY).exists(), 30, 0.002)
        self._times["wipe_to_key_gone"] = round(time.monotonic() - began, 3)
        until(lambda: self._admin.list_asked(self._number)[0]["receipt"] is not None, 60)
        self._times["wipe_to_receipt"] = round(time.monotonic() - began, 3)
        (row,) = [row for row in self._admin.list_asked(self._number) if row["command"] == asked["command"]]
        assert row["receipt"]["result"] == "done", row
        assert gone(int(info["pid"])), "its machine still runs"
        assert not b.workspace.exists()
        time.sleep(1)
        desk.shot("wiped")
        desk.switch()
        desk.wait_said("shown", False, 10)
        time.sleep(0.5)
        desk.shot("and-its-owners-own")
        assert belongings(b.owner) == before == b.found, "something of the owner's was changed"
        self._say("B: wiped while it ran; receipt with the company", self._times["wipe_to_receipt"])
        self._say(f"Nothing of its owner's changed: {len(before)} files, same bytes, times and rights")

    # -- devices ----------------------------------------------------------------------------------------------------------

    def _device(self, name: str, title: str) -> Device:
        owner = self._home / name
        found = settle(owner)
        stage = self._undo.enter_context(Stage(owner / OURS, self._office.console))
        stage.times = self._times
        stage.environment["HOME"] = str(owner)
        line = self._line(name)
        desk = self._undo.enter_context(
            Desk(
                stage,
                OUT,
                1280,
                800,
                phone=False,
                owner=f"{name}-",
                shots=self._shots,
                note=owner / "Documents/list.txt",
            )
        )
        client = self._agent(name, stage, line)
        stage.enrol(self._admin, client, title, line.address)
        desk.open_editor()
        return Device(owner, stage, line, client, Story(stage, desk, client), found)

    def _line(self, name: str) -> Line:
        return (
            self._undo.enter_context(relay(self._admin.place.port))
            if self._orders is None
            else Cable(self._orders, name)
        )

    def _agent(self, name: str, stage: Stage, line: Line) -> Client:
        if isinstance(line, Cable):
            return stage.agent(lambda: line.order("start", str(stage.dirs.state.parent), str(stage.home.parent)))
        return stage.agent()


def agent_of(client: Client) -> int:
    with socket.socket(fileno=os.dup(client.fileno())) as sock:
        return peer(sock).pid


def vault_of(stage: Stage) -> int:
    return int(json.loads((stage.dirs.workspace_runtime(WORKSPACE) / RECORD).read_bytes())["pid"])


def gone(pid: int) -> bool:
    """It runs no more; a dead child that nobody has asked for yet counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def until(seen: Callable[[], object], seconds: float = 20, every: float = 0.05) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(every)


if __name__ == "__main__":
    sys.exit(main())
