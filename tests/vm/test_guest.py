"""The business image and its agent, in one real guest that all tests here share."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from PIL import Image

from tests.harness import probe
from tests.harness.bare import Bare, boot
from tests.harness.image import business
from twofold.agent.channel import GuestChannel
from twofold.image.build import Built
from twofold.model.errors import BadInputError, NotFoundError, TwofoldError
from twofold.platform.run import run

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]
# QEMU's own network in the place of the network process; 192.0.0.1 is then this machine's loopback.
CARD = (
    "-netdev",
    "user,id=n,net=192.0.0.0/29,host=192.0.0.1,dns=192.0.0.3,dhcpstart=192.0.0.4",
    "-device",
    "virtio-net-pci,netdev=n",
)
DISK = 20 << 30
SLOW = 60.0  # seconds for what takes two on a machine of one's own

KEYS = {
    " ": ("spc",), "\n": ("ret",), ".": ("dot",), "/": ("slash",), "<": ("shift", "comma"),
}  # fmt: skip


@pytest.fixture(scope="module")
def image() -> Built:
    return business()


class Talk:
    """Asks the guest, one conversation per call of `run`; keeps its events."""

    def __init__(self, machine: Bare) -> None:
        self.machine = machine
        self.events: list[Mapping[str, Any]] = []

    def run(self, talk: Callable[[GuestChannel], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            channel = await GuestChannel.connect(self.machine.channel, self.events.append)
            try:
                return await talk(channel)
            finally:
                await channel.close()

        return asyncio.run(whole())

    def ask(self, verb: str, **args: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.run(lambda channel: channel.call(verb, timeout=SLOW, **args))
        return answer

    def until_session(self) -> float:
        """Wait for the desktop; returns the seconds since QEMU was started."""

        async def wait(channel: GuestChannel) -> None:
            while True:
                try:
                    if (await channel.call("hello", timeout=2))["session"]:
                        return
                except TwofoldError:
                    pass
                await asyncio.sleep(0.1)

        async def bounded(channel: GuestChannel) -> None:
            async with asyncio.timeout(180):
                await wait(channel)

        self.run(bounded)
        return time.monotonic() - self.machine.born

    def launch(self, app: str) -> Mapping[str, Any]:
        async def wait(channel: GuestChannel) -> Mapping[str, Any]:
            token = (await channel.call("launch", timeout=SLOW, app=app))["launch"]
            async with asyncio.timeout(SLOW):
                while True:
                    for event in self.events:
                        if event.get("launch") == token:
                            return event
                    await asyncio.sleep(0.05)

        event: Mapping[str, Any] = self.run(wait)
        return event

    def until(self, check: Callable[[probe.Picture], bool], seconds: float = 30) -> probe.Picture:
        """Wait for pixels."""
        deadline = time.monotonic() + seconds
        while True:
            picture = self.machine.picture()
            try:
                if check(picture):
                    return picture
            except probe.NoMarks:
                pass
            if time.monotonic() > deadline:
                Image.fromarray(picture).save(self.machine.folder / "never.png")
                pytest.fail(f"the screen never showed it: {self.machine.folder / 'never.png'}")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def guest(image: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    folder = tmp_path_factory.mktemp("guest")
    # The user's disk has become larger since it was made.
    shutil.copyfile(image.path("user-template"), folder / "user.raw")
    os.truncate(folder / "user.raw", DISK)
    with boot(image, folder, *CARD) as machine:
        talk = Talk(machine)
        print(f"boot to desktop: {talk.until_session():.1f} s")
        yield talk


def test_its_users_file_system_has_grown_with_its_disk(guest: Talk, image: Built) -> None:
    """Mounted, by the guest's own kernel, past what its table of groups had room for."""
    assert guest.ask("hello")["home"] == {"device": DISK, "files": DISK}
    assert image.manifest.user_disk_size < DISK
    guest.ask("freeze", seconds=30)
    try:
        run(["e2fsck", "-fn", guest.machine.folder / "user.raw"])
    finally:
        guest.ask("thaw")


def test_its_applications_have_real_icons(guest: Talk, image: Built) -> None:
    apps = guest.ask("apps")["apps"]
    assert len(apps) >= 4 and [app["id"] for app in apps] == [app.id for app in image.manifest.apps]
    for app in apps:
        png = base64.b64decode(guest.ask("icon", icon=app["icon"])["png"])
        assert hashlib.sha256(png).hexdigest() == app["icon"]
        with Image.open(io.BytesIO(png)) as picture:
            assert picture.size == (128, 128)


@pytest.mark.parametrize(
    "app", ["galculator", "org.xfce.mousepad", "lxterminal", "pcmanfm", "org.gnumeric.gnumeric", "claws-mail"]
)
def test_each_application_shows_its_window(guest: Talk, app: str) -> None:
    event = guest.launch(app)
    assert event["event"] == "window" and event["app"] == app
    assert app in {window["app"] for window in guest.ask("windows")["windows"]}


def test_its_card_has_the_address_that_the_network_process_expects(guest: Talk) -> None:
    """Typed at the guest's terminal; what arrives is what it takes for its name server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SLOW)
        guest.launch("lxterminal")
        for each in f"busybox nc 192.0.0.1 {listener.getsockname()[1]} </etc/resolv.conf\n":
            guest.machine.press(*KEYS.get(each, (each,)))
        line, _ = listener.accept()
        with line:
            line.settimeout(SLOW)
            assert line.recv(100) == b"nameserver 192.0.0.1\n"


def test_what_is_not_installed_is_not_started(guest: Talk) -> None:
    for name in ("nonsense", "../../bin/sh", "/bin/sh"):
        with pytest.raises(NotFoundError):
            guest.ask("launch", app=name)


@pytest.mark.parametrize(
    ("width", "height", "scale"), [(412, 915, 100), (1366, 768, 150), (1920, 1080, 100), (1280, 800, 100)]
)
def test_the_screen_has_exactly_the_size_asked_for(guest: Talk, width: int, height: int, scale: int) -> None:
    assert guest.ask("display", width=width, height=height, scale=scale) == {"width": width, "height": height}
    assert guest.machine.picture().shape == (height, width, 3)


@pytest.mark.long  # a translated guest that has just booted is busy for a while
def test_it_says_that_nothing_happens_in_it_until_somebody_types(guest: Talk) -> None:
    async def said(name: str) -> None:
        async with asyncio.timeout(SLOW):
            while not any(event["event"] == name for event in guest.events):  # noqa: ASYNC110 - another thread fills it
                await asyncio.sleep(0.05)

    async def talk(channel: GuestChannel) -> None:
        guest.events.clear()
        await channel.call("doze", timeout=SLOW, on=True, quiet=1)
        await said("idle")
        guest.machine.press("shift")
        await said("busy")
        await channel.call("doze", timeout=SLOW, on=False, quiet=1)

    guest.run(talk)


def test_time_is_set_and_seen_on_the_screen(guest: Talk) -> None:
    guest.launch("twofold-probe")
    guest.ask("time", unix_ms=time.time_ns() // 1_000_000)
    guest.until(lambda picture: abs(probe.status(picture).age(time.time_ns() // 1_000_000)) < 1000)


LAYOUTS = [
    ("us", "", "yz", [("y",), ("z",)]),
    ("de", "", "yzö@€é", [("z",), ("y",), ("semicolon",), ("alt_r", "q"), ("alt_r", "e"), ("equal",), ("e",)]),
    ("fr", "", "az&ê", [("q",), ("w",), ("1",), ("bracket_left",), ("e",)]),
    ("us", "compose:menu", "©", [("compose",), ("o",), ("c",)]),
]


@pytest.mark.parametrize(("layout", "options", "text", "keys"), LAYOUTS, ids=["us", "de", "fr", "compose"])
def test_text_arrives_as_the_layout_says(
    guest: Talk, layout: str, options: str, text: str, keys: list[tuple[str, ...]]
) -> None:
    if layout == "us" and not options:
        guest.launch("twofold-probe-text")
        guest.until(lambda picture: not probe.text(picture), SLOW)
    guest.ask("layout", model="pc105", layout=layout, variant="", options=options)
    # The X server drops keys while it takes a new keymap, and the window manager may still be giving the field the focus.
    time.sleep(1)
    before = probe.status(guest.until(lambda picture: probe.status(picture) is not None)).presses
    for codes in keys:
        guest.machine.press(*codes)
    # Text and count are drawn by two programs; each arrives in its own time.
    wanted = before + sum(map(len, keys))
    guest.until(lambda picture: probe.text(picture).endswith(text) and probe.status(picture).presses == wanted)


def test_a_new_scale_leaves_the_keyboard_where_it_was(guest: Talk) -> None:
    guest.ask("layout", model="pc105", layout="us", variant="", options="")
    time.sleep(1)
    for scale in (200, 100):
        guest.ask("display", width=1280, height=800, scale=scale)
        guest.machine.press("x")
        time.sleep(1)  # as when it is being set up anew
        guest.machine.press("y")
        guest.until(lambda picture: probe.text(picture).endswith("xy"))
        active = [window for window in guest.ask("windows")["windows"] if window["active"]]
        assert [window["app"] for window in active] == ["twofold-probe-text"]


def test_a_layout_that_is_none_is_refused(guest: Talk) -> None:
    for name in ("zz", "us; reboot", "-help"):
        with pytest.raises(BadInputError):
            guest.ask("layout", model="pc105", layout=name, variant="", options="")


def test_the_users_disk_freezes_and_thaws_by_itself(guest: Talk) -> None:
    assert guest.ask("freeze", seconds=600) == {"frozen": ["/home"]}
    assert guest.ask("thaw") == {"thawed": ["/home"]}
    assert guest.ask("freeze", seconds=1) == {"frozen": ["/home"]}
    time.sleep(2.5)
    assert guest.ask("thaw") == {"thawed": []}


def test_a_host_that_goes_in_the_middle_of_a_line_is_forgotten(guest: Talk) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(guest.machine.channel))
        rude.sendall(b'{"v":1,"id":5,"do":"pi')
        time.sleep(0.3)
    assert guest.ask("ping") == {}


def test_the_power_button_shuts_it_down(guest: Talk) -> None:
    # By the agent: tests/vm/whole/test_wind_down.py.
    guest.machine.qmp("system_powerdown")
    guest.machine.process.wait(timeout=60)
