"""The sheet as a person has it: typed and touched on a real X server, over a real machine, looked at on root pixels."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness.long import long
from tests.harness.touchscreen import DUMMY, XORG, touchscreen
from tests.harness.xserver import end, window_manager
from tests.unit.test_sheet import JOB, LOSS, MAY
from tests.unit.test_switcher import WIRE
from tests.vm.test_display import Machine
from tests.vm.test_switcher import OUT, ROOT, Agent, Person
from twofold.platform.run import spawn
from twofold.switcher import forms

pytestmark = pytest.mark.vm
CODE = "Correct horse 9"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    yield made
    made.close()


OFF = {"run": "off", "shut": "code", "code": "locked", "policy": MAY | {"unlock": True}}


class Looks:
    """A person, who presses what the switcher says is there; each step is kept as a picture."""

    def __init__(self, person: Person, name: str) -> None:
        self._person, self._name = person, name

    def picture(self, of: str) -> None:
        time.sleep(0.25)
        self._person.screen.save(OUT / f"{self._name}-{of}.png")

    def press(self, spot: str) -> None:
        deadline = time.monotonic() + 10
        while spot not in self._person.said.get("spots", {}):
            assert time.monotonic() < deadline, self._person.said
            time.sleep(0.01)
        time.sleep(0.05)
        self._person.hands.click(*self._person.said["spots"][spot])

    def asked(self, verb: str, **args: Any) -> None:
        deadline, wanted = time.monotonic() + 10, (verb, {"workspace": "work"} | args)
        while wanted not in self._person.agent.asked:
            assert time.monotonic() < deadline, self._person.agent.asked
            time.sleep(0.01)


@pytest.mark.parametrize("size", [(412, 915), *long((1280, 800))])
def test_a_person_checks_in_discards_and_gives_a_code(tmp_path: Path, machine: Machine, size: tuple[int, int]) -> None:
    person, phone = Person(tmp_path, machine, *size), size[0] < 600
    looks = Looks(person, f"{size[0]}x{size[1]}-sheet")
    now = {"in_memory": True, "on_disk_verified_at": int(time.time()), "on_server_at": int(time.time()) - 200}
    ours = WIRE | {"event": "workspace", "whereabouts": now, "policy": MAY | {"unlock": True}, "code": "open",
                   "expires": int(time.time()) + 5 * 86400}  # fmt: skip
    try:
        person.hands.key("Pause")
        person.until("live", True)
        person.agent.tell(ours)
        if phone:
            looks.press("search")
            person.until("launcher", True)
            looks.picture("drawer")
            looks.press("more")
        else:
            looks.press("details")
        person.until("sheet", "details")
        person.until("side", "typing")
        looks.picture("details")
        looks.press(forms.CHECK_IN)
        person.until("sheet", forms.CHECK_IN)
        looks.picture("check-in")
        looks.press("checkin")
        looks.asked("checkin", stop=True)
        person.agent.tell(JOB | {"verb": "checkin", "whole": 3_200_000_000})
        looks.picture("checking-in")
        looks.press("close")
        person.until("sheet", "")
        person.until("side", "work")
        person.until("banner", "Checking Acme in")
        looks.picture("checking-in-hidden")
        person.agent.tell(JOB | {"verb": "checkin", "state": "cancelled"})
        person.until("banner", "")
        if phone:
            looks.press("search")
            person.until("launcher", True)
            looks.press("more")
        else:
            looks.press("details")
        looks.press(forms.DISCARD)
        person.until("sheet", forms.DISCARD)
        person.agent.tell(JOB | {"verb": "loss", "state": "done", "result": LOSS})
        looks.picture("discard")
        looks.press("back")
        person.until("sheet", "details")
        no = MAY | {"replicate": False, "checkin": False, "discard": False}
        person.agent.tell(ours | {"policy": no})
        looks.picture("not-allowed")
        looks.press("close")
        off = ours | {"run": "off", "shut": "code", "code": "locked", "whereabouts": now | {"in_memory": False}}
        person.agent.tell(off)
        person.until("sheet", "code")
        person.until("side", "typing")
        looks.picture("code")
        if phone:
            for key in ("⇧", "c", "o", "r", "r", "e", "c", "t", "space", "h", "o", "r", "s", "e", "space", "9"):
                looks.press(f"key {key}")
            looks.picture("code-typed")
            looks.press("key ⏎")
        else:
            person.hands.type(CODE)
            looks.picture("code-typed")
            person.hands.key("Return")
        looks.asked("unlock", code=CODE, new=False)
        looks.asked("start")
        person.agent.tell(off | {"code": "", "shut": "code"})
        person.until("sheet", "new")
        looks.picture("choose")
        person.agent.tell(ours | {"run": "off", "custody": "checking-in"})
        person.agent.tell(JOB | {"verb": "checkin"})
        person.until("sheet", "")
        looks.picture("giving-back")
        person.hands.key("Pause")
        person.until("side", "personal")
    finally:
        person.undo.close()


@pytest.mark.long
@pytest.mark.skipif(not XORG.exists() or not DUMMY.exists(), reason="no Xorg with a dummy screen here")
def test_a_code_is_touched_with_real_fingers(tmp_path: Path, machine: Machine) -> None:
    with ExitStack() as undo:
        server, fingers = undo.enter_context(touchscreen(412, 915))
        undo.enter_context(window_manager(server))
        agent = Agent(tmp_path / "agent", machine)
        undo.callback(agent.close)
        reader, writer = os.pipe()
        said: dict[str, Any] = {}
        process = spawn(
            [sys.executable, "-m", "twofold.switcher", "--socket", tmp_path / "agent", "--front", "--status-fd", str(writer)],
            env=server.environment(PYTHONPATH=str(ROOT / "src")), pass_fds=[writer],
        )  # fmt: skip
        undo.callback(end, process)
        os.close(writer)
        lines = undo.enter_context(os.fdopen(reader))
        while said.get("run") != "running":
            said |= json.loads(lines.readline())
        agent.tell(WIRE | OFF | {"event": "workspace"})
        while (said.get("sheet"), said.get("side")) != ("code", "typing") or "key a" not in said["spots"]:
            said |= json.loads(lines.readline())
        time.sleep(0.3)
        for key in ("a", "b", "1", "9", "\u23ce"):
            x, y = said["spots"][f"key {key}"]
            fingers.down(0, x / 412, y / 915)
            time.sleep(0.08)
            fingers.up(0, x / 412, y / 915)
        wanted = ("unlock", {"workspace": "work", "code": "ab19", "new": False})
        deadline = time.monotonic() + 10
        while wanted not in agent.asked:
            assert time.monotonic() < deadline, agent.asked
            time.sleep(0.01)
