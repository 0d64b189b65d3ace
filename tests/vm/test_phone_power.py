"""Work on the emulated phone while its owner is elsewhere: a notification and a tap on it, a dark screen and light after it."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.console import Console

from demo.stage import PERSON, WORKSPACE, Stage
from phone.build import handset as build
from phone.handset import POWER, Parts, differing, switched_on
from phone.person import NOTICE, TAP, Person, at_home, in_work
from phone.software import software
from twofold.model.errors import MissingError
from twofold.model.image import Arch
from twofold.model.policy import SUSPEND, Policy

pytestmark = [pytest.mark.vm, pytest.mark.phone, pytest.mark.timeout(900)]
HOST = "10.0.2.2"  # by which the phone knows this machine
OWNER = (
    "setpriv --reuid 1000 --regid 1000 --init-groups env "
    "$(tr '\\0' '\\n' </proc/$(pgrep -x mako)/environ | grep -E '^(HOME|PATH|XDG_RUNTIME_DIR)=')"
)
ROUNDS = 3


class Owner(Person):
    """With a terminal that no photograph shows."""

    def sh(self, command: str, seconds: float = 300) -> str:
        return self.phone.look(f"{OWNER} sh -c {shlex.quote(command)}", seconds)

    def agent(self, verb: str, **args: str) -> str:
        asked = f"from twofold.agent.client import Client; print(Client().call({verb!r}, workspace={WORKSPACE!r}, **{args!r}))"
        return self.sh(f"/usr/lib/twofold/bin/python -c {shlex.quote(asked)}")

    def until(self, seen: Callable[[], bool], what: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def run(self, state: str) -> bool:
        return f"'run': '{state}'" in self.agent("info")


@pytest.fixture(scope="module")
def me() -> Iterator[Owner]:
    system = build()
    with ExitStack() as undo:
        try:
            parts = Parts(system, software(system), inspect=True)
        except MissingError as missing:
            pytest.skip(str(missing))
        home = Path(tempfile.mkdtemp(prefix="tf-phone-"))  # short: sockets lie below
        undo.callback(shutil.rmtree, home, ignore_errors=True)
        undo.callback(_restore, os.environ.get("TWOFOLD_HOME"))
        office = undo.enter_context(Stage(home / "office", Console(quiet=True)))
        image = office.image(Arch.ARM64)
        admin = office.server("127.0.0.1", HOST)
        office.publish(admin, image, Policy(notifications="full", screen_off=SUSPEND))
        (home / "phone").mkdir()
        phone = undo.enter_context(switched_on(parts, home / "phone"))
        owner = Owner(phone, lambda name, picture: None)
        owner.at_home(300)
        owner.still(120)
        phone.look("until [ -S /run/user/1000/twofold/agent.sock ]; do sleep 0.3; done", 120)
        owner.sh(f"twofold enrol --name phone '{admin.invite_device(PERSON).replace('127.0.0.1', HOST)}'")
        owner.sh(f"twofold checkout {WORKSPACE}")
        owner.sh(f"twofold start {WORKSPACE}")
        owner.to_work(swipe=True)
        owner.desktop(420)
        yield owner


def _restore(home: str | None) -> None:
    if home is None:
        del os.environ["TWOFOLD_HOME"]
    else:
        os.environ["TWOFOLD_HOME"] = home


def test_a_tap_on_a_notification_of_works_leads_to_its_application(me: Owner) -> None:
    before = me.phone.photograph()
    me.to_personal(swipe=True)
    me.still(60)
    quiet = me.phone.photograph()
    me.agent("launch", app="twofold-probe-notice")
    me.phone.until(lambda now: differing(quiet[NOTICE], now[NOTICE]) > 0.3, 120, "the notification")
    me.phone.tap(*TAP)
    me.phone.until(in_work, 60, "Work")
    me.phone.until(lambda now: differing(before[94:1080], now[94:1080]) > 0.3, 180, "the editor that it came from")
    me.until(lambda: "org.xfce.mousepad" in me.agent("windows"), "the editor's window")


def test_a_dark_screen_shuts_work_without_its_keys_and_light_brings_it_back(me: Owner) -> None:
    for _ in range(ROUNDS):
        if not in_work(me.phone.photograph()):
            me.to_work(swipe=True)
        me.still(60)
        work = me.phone.photograph()
        me.phone.press(POWER)
        me.until(lambda: me.run("suspended"), "suspended in the dark")
        assert not me.phone.look("pgrep -f '[t]wofold-vaultd' || true"), "its keys are still there"
        me.phone.press(POWER)
        me.phone.until(lambda now: at_home(now) or in_work(now), 60, "light")
        if not in_work(me.phone.photograph()):
            me.to_work(swipe=True)
        me.phone.until(lambda now: differing(work[94:1080], now[94:1080]) < 0.02, 120, "Work as it was")  # noqa: B023
        me.until(lambda: me.run("running"), "running again")
