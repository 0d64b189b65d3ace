"""The emulated phone's shell by touch: the swipe between the sides, and a notification; seen on photographs of its screen."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from phone.build import handset as build
from phone.handset import HEIGHT, POWER, WIDTH, Parts, Picture, differing, like, switched_on
from phone.person import EDGE, KEYBOARD, UP, WORK, Person, at_home
from phone.software import software
from twofold.model.errors import MissingError

pytestmark = [pytest.mark.vm, pytest.mark.phone, pytest.mark.timeout(400)]
OWNER = (
    "setpriv --reuid 1000 --regid 1000 --init-groups env HOME=/home/user XDG_RUNTIME_DIR=/run/user/1000 "
    "$(tr '\\0' '\\n' </proc/$(pgrep -x mako)/environ | grep DBUS_SESSION)"
)
NOTICE = """
import json, sys, time
sys.path.insert(0, "/usr/lib/twofold/lib/python3.13/site-packages")
from jeepney import DBusAddress, MatchRule, MessageType, message_bus, new_method_call
from jeepney.io.blocking import open_dbus_connection
bus = open_dbus_connection()
bus.send_and_get_reply(message_bus.AddMatch(MatchRule(interface="org.freedesktop.Notifications", member="ActionInvoked")))
server = DBusAddress("/org/freedesktop/Notifications", "org.freedesktop.Notifications", "org.freedesktop.Notifications")
words = ("Twofold", 0, "", "Acme", "New message", ["default", "Open"], {}, -1)
number = bus.send_and_get_reply(new_method_call(server, "Notify", "susssasa{sv}i", words)).body[0]
while True:
    message = bus.receive(timeout=120)
    if message.header.message_type is MessageType.signal and message.body == (number, "default"):
        open("/tmp/pressed", "w").write("yes")
        break
"""

ASK = """
import os, select, sys
sys.path.insert(0, "/usr/lib/twofold/lib/python3.13/site-packages")
from twofold.guest import bus
name, path, answers = "sm.puri.OSK0", "/sm/puri/OSK0", []
on = bus.Bus(os.environ["DBUS_SESSION_BUS_ADDRESS"], lambda _: None)
if sys.argv[1] == "visible":
    on.call(name, path, bus.BUS + ".Properties", "Get", "ss", name, "Visible", then=answers.append)
else:
    on.call(name, path, name, "SetVisible", "b", sys.argv[1] == "show", then=answers.append)
while not answers:
    on.flush()
    select.select([on.fd], [], [])
    on.read()
print(bool(answers[0].args("v")[0][1]) if sys.argv[1] == "visible" else answers[0].kind)
"""


@pytest.fixture(scope="module")
def me(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    system = build()
    try:
        parts = Parts(system, software(system), inspect=True)
    except MissingError as missing:
        pytest.skip(str(missing))
    with switched_on(parts, tmp_path_factory.mktemp("phone")) as phone:
        owner = Person(phone, lambda name, picture: None)
        owner.at_home(300)
        owner.still(120)
        # Its switcher stands ready, put away, before anybody can go there.
        phone.look("until [ -s /run/user/1000/switcher.pid ]; do sleep 0.3; done; sleep 8", 120)
        yield owner


def ours(now: Picture) -> bool:
    """The switcher's own page: nobody is enrolled here, so it wears no workspace's colour."""
    return bool(like((0x0C, 0x0F, 0x13), now[200:1000, 60:480], 3).mean() > 0.6)


def test_a_swipe_from_the_lower_edge_goes_to_work_and_the_same_one_back(me: Person) -> None:
    for _ in range(2):
        me.phone.swipe(EDGE, UP)
        me.phone.until(ours, 60, "Work")
        me.phone.swipe(EDGE, UP)
        me.phone.until(lambda now: not ours(now), 60, "the personal side")


def test_the_docks_button_does_what_the_swipe_does(me: Person) -> None:
    me.phone.tap(*WORK)
    me.phone.until(ours, 60, "Work")
    me.phone.swipe(EDGE, UP)
    me.phone.until(lambda now: not ours(now), 60, "the personal side")
    me.phone.swipe(EDGE, UP)
    me.phone.until(ours, 60, "Work")
    me.phone.tap(*WORK)
    me.phone.until(lambda now: not ours(now), 60, "the personal side")


def test_work_makes_room_for_the_keyboard_and_has_it_again_wherever_it_was_put_away(me: Person) -> None:
    phone = me.phone
    phone.swipe(EDGE, UP)
    phone.until(ours, 60, "Work")
    me.still(60)
    before = phone.photograph()
    for away in (False, True):
        phone.tap(*KEYBOARD)
        phone.until(lambda now: differing(before[800:1080], now[800:1080]) > 0.3, 60, "the keyboard")
        me.still(30)
        if away:
            phone.swipe(EDGE, UP)
            phone.until(lambda now: not ours(now), 60, "the personal side")
        phone.tap(*KEYBOARD)
        if away:
            me.still(30)
            phone.swipe(EDGE, UP)
        phone.until(lambda now: differing(before[100:1080], now[100:1080]) < 0.01, 60, "all of Work")
    phone.swipe(EDGE, UP)
    phone.until(lambda now: not ours(now), 60, "the personal side")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ((WIDTH // 2, HEIGHT - 200), (WIDTH // 2, HEIGHT - 500)),  # begins above the strip
        (EDGE, (WIDTH - 20, HEIGHT - 60)),  # goes aside
        (EDGE, (WIDTH // 2, HEIGHT - 60)),  # not far enough
    ],
)
def test_another_movement_changes_nothing(me: Person, start: tuple[int, int], end: tuple[int, int]) -> None:
    before = me.phone.photograph()
    me.phone.swipe(start, end)
    me.still(30)
    assert differing(before, me.phone.photograph()) < 0.02


def test_a_program_below_feels_nothing_of_the_swipe(me: Person) -> None:
    phone = me.phone
    phone.look("printf 'printf \"\\033[?1000h\\033[?1006h\"; cat' >/tmp/touches")  # the terminal writes down each touch
    me.terminal("sh /tmp/touches")
    me.still(30)
    before = phone.photograph()
    phone.tap(WIDTH // 2, HEIGHT // 2)
    phone.changed(before, 20, 0.0002)
    me.still(30)
    before = phone.photograph()
    for seen in (ours, lambda now: not ours(now)):
        phone.swipe(EDGE, UP)
        phone.until(seen, 60, "the other side")
    me.still(30)
    assert differing(before[100:1000], phone.photograph()[100:1000]) < 0.0001, "the terminal heard of the swipe"
    phone.key("ctrl", down=True)
    phone.type("c")
    phone.key("ctrl", down=False)
    me.leave_terminal()


def test_a_dark_screen_is_not_swiped(me: Person) -> None:
    me.phone.press(POWER)
    me.phone.look("until [ -e /run/user/1000/screen-off ]; do sleep 0.2; done; sleep 2")
    me.phone.swipe(EDGE, UP)
    me.phone.look("sleep 2")
    me.phone.press(POWER)
    me.phone.until(at_home, 60, "the screen, as it was left")
    me.still(30)
    assert at_home(me.phone.photograph()) and not ours(me.phone.photograph())


def test_work_is_there_again_after_a_dark_screen(me: Person) -> None:
    me.phone.swipe(EDGE, UP)
    me.phone.until(ours, 60, "Work")
    for lit in (False, True):
        me.phone.press(POWER)
        me.phone.look(f"until [ {'!' * lit} -e /run/user/1000/screen-off ]; do sleep 0.2; done; sleep 2")
    me.phone.until(ours, 60, "Work, as it was left")
    me.phone.swipe(EDGE, UP)
    me.phone.until(at_home, 60, "the personal side")


def test_a_notification_is_shown_and_a_tap_on_it_answers(me: Person) -> None:
    phone = me.phone
    before = phone.photograph()
    phone.look(f"rm -f /tmp/pressed; cat >/tmp/notice.py <<'END'\n{NOTICE}END\n")
    phone.look(f"{OWNER} /usr/lib/twofold/bin/python /tmp/notice.py >/tmp/notice.log 2>&1 </dev/null & sleep 1")
    phone.until(lambda now: differing(before[44:240], now[44:240]) > 0.3, 60, "the notification")
    shown = phone.photograph()
    rows, columns = np.nonzero(np.abs(before.astype(np.int16) - shown).max(axis=2) > 12)
    assert columns.max() - columns.min() > 0.8 * WIDTH and rows.max() - rows[rows > 44].min() > 70, (
        "too small for a finger"
    )
    phone.tap(WIDTH // 2, 44 + 50)
    phone.until(lambda now: differing(before[44:240], now[44:240]) < 0.02, 30, "the notification gone")
    assert (
        phone.look("n=0; until [ -e /tmp/pressed ] || [ $n = 50 ]; do sleep 0.2; n=$((n+1)); done; cat /tmp/pressed")
        == "yes"
    )


def test_the_keyboard_is_one_for_the_dock_and_for_programs(me: Person) -> None:
    phone = me.phone
    phone.look(f"cat >/tmp/ask.py <<'END'\n{ASK}END\n")

    def asks(word: str) -> str:
        return phone.look(f"{OWNER} python3 -IS /tmp/ask.py {word}", 60).strip()

    me.still(30)
    before = phone.photograph()

    def shown(now: Picture) -> bool:
        return differing(before[830:1085], now[830:1085]) > 0.5

    assert asks("visible") == "False"
    phone.tap(*KEYBOARD)
    phone.until(shown, 30, "the keyboard")
    assert asks("visible") == "True"
    assert asks("hide") == "2"
    phone.until(lambda now: not shown(now), 30, "the keyboard gone")
    asks("show")
    phone.until(shown, 30, "the keyboard")
    phone.tap(*KEYBOARD)
    phone.until(lambda now: not shown(now), 30, "the keyboard gone")
    phone.look("pkill -9 -x wvkbd-mobintl; sleep 3")
    phone.tap(*KEYBOARD)
    phone.until(shown, 30, "another keyboard, after the first was killed")
    asks("hide")
    phone.until(lambda now: not shown(now), 30, "it gone")
