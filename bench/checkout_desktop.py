"""From the request to a usable desktop by a check-out, over a link of a stated rate and length.

Server and device are in network namespaces of their own (bench.checkout_link). The desktop is usable once its session is up, as
the guest's agent says. The image is published with its recorded first start, as `make image` leaves it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.checkout_kit import MIB, TREE, newest, tell
from bench.checkout_link import ADDRESSES, DEVICE, SERVER, Link
from bench.report import Row, row
from tests.harness.company import Device as Home
from tests.harness.company import end
from tests.unit.server_kit import ADMIN, PASSWORD, free_port
from twofold.agent.client import Client
from twofold.model.errors import UnreachableError
from twofold.model.policy import Policy
from twofold.platform.run import environment, spawn
from twofold.server.client import Admin
from twofold.server.run import init
from twofold.trust.publisher import publisher

RATE, DELAY = 100, 30  # megabits a second, milliseconds there and back
OTHERS = (20, 1000)
WORK = "work"
NOTES: list[str] = []


@dataclass(frozen=True)
class Stage:
    """A server behind a link, with the business image; `invitations` are for one device each."""

    link: Link
    folder: Path
    invitations: list[str]
    image: int  # sealed bytes

    @contextmanager
    def device(self, name: str) -> Iterator[tuple[Home, Client]]:
        """A new device's agent, or one whose folder is there already, on the other end of the link."""
        home = Home(self.folder / name)
        with ExitStack() as undo:
            process = self._inside(DEVICE, [sys.executable, "-m", "twofold.agent"], TWOFOLD_HOME=str(home.home))
            home.process = process
            undo.callback(end, process)
            client = undo.enter_context(home.client())
            undo.callback(_all_off, client)
            yield home, client

    def enrol(self, client: Client) -> None:
        url, until = self.invitations.pop(), time.monotonic() + 120
        while True:  # the server may be about to come up
            try:
                client.call("enrol", url=url, name="laptop")
                client.call(
                    "doctor"
                )  # what this processor can do is found out once a boot, here before the time is taken
                return
            except UnreachableError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def serve(self, port: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "twofold.server", "--home", str(self.folder / "server"), "run"]
        return self._inside(SERVER, [*words, "--host", ADDRESSES[SERVER], "--port", str(port)])

    def _inside(self, side: int, words: Sequence[str], **env: str) -> subprocess.Popen[bytes]:
        command, theirs, ours = self.link.words(side, words)
        kept = {"PYTHONPATH": f"{TREE / 'src'}:{TREE}"} | env
        for each in ("XDG_RUNTIME_DIR", "TWOFOLD_BUILDS"):
            if each in os.environ:
                kept[each] = os.environ[each]
        with theirs, (self.folder / f"log-{side}").open("ab") as log:
            process = spawn(
                command, env=environment(kept), cwd=TREE, pass_fds=[theirs.fileno()], stdout=log, stderr=log
            )
        self.link.attach(side, ours)
        return process


def _all_off(client: Client) -> None:
    for space in client.call("list")["workspaces"]:
        if space["pid"]:
            client.finish("off", workspace=space["workspace"], limit=60)
    client.call("quit")


@contextmanager
def stage(folder: Path, devices: int) -> Iterator[Stage]:
    """The server publishes and invites on this machine's own network before it goes behind the link."""
    port, home = free_port(), folder / "server"
    made = init(home, ADMIN, PASSWORD, company="ACME", names=[ADDRESSES[SERVER]])
    words = [sys.executable, "-m", "twofold.server", "--home", str(home), "run", "--port", str(port)]
    process = spawn(words, env={"PYTHONPATH": str(TREE / "src")})
    admin = Admin(f"https://127.0.0.1:{port}", made.pin)
    built = newest()
    try:
        admin.wait_ready(30)
        admin.login(ADMIN, PASSWORD)
        maker = publisher(folder / "publisher")
        admin.add_publisher(maker)
        image = admin.publish_image(built, maker, first_boot=built.first_boot).stored
        admin.create_user("ada", "ada ada ada ada")
        admin.add_grant("ada", built.manifest.image, WORK, "ACME", "blue", Policy(keys_leave=True, replicate_seconds=0))
        urls = [admin.invite_device("ada").replace("127.0.0.1", ADDRESSES[SERVER]) for _ in range(devices)]
    finally:
        admin.close()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    if built.first_boot is None:
        NOTES.append("desktop: the image has no recorded first start (make image): what follows is without one.")
    link = Link()
    here = Stage(link, folder, urls, image)
    with ExitStack() as undo:
        undo.callback(link.close)
        undo.callback(end, here.serve(port))
        yield here


def _up(client: Client, began: float, seconds: float = 300) -> float:
    """Start it and wait for its desktop; returns the seconds since `began`."""
    client.finish("start", workspace=WORK, limit=seconds)
    while not client.call("info", workspace=WORK)["session_up"]:
        if time.monotonic() - began > seconds:
            raise TimeoutError("the session never came up")
        time.sleep(0.02)
    return time.monotonic() - began


def _whole(client: Client) -> None:
    while (base := client.call("info", workspace=WORK)["base"]) is None or base["here"] < base["of"]:
        time.sleep(0.05)


@dataclass(frozen=True)
class Arrival:
    """Seconds of check-out and start together, and of booting what is here; bytes that came before the desktop stood."""

    fresh: float
    local: float
    received: int


def _arrive(here: Stage, name: str, megabits: int) -> Arrival:
    here.link.shape(0, 0)
    with here.device(name) as (home, client):
        here.enrol(client)
        here.link.shape(megabits, DELAY)
        before, began = here.link.received[DEVICE], time.monotonic()
        client.finish("checkout", workspace=WORK, limit=300)
        checked = time.monotonic() - began
        fresh = _up(client, began)
        received = here.link.received[DEVICE] - before
        here.link.shape(0, 0)
        _whole(client)
        time.sleep(2)  # what the desktop still does
        client.finish("off", workspace=WORK, limit=60)
        local = _up(client, time.monotonic())
        client.finish("off", workspace=WORK, limit=60)
        client.finish("discard", workspace=WORK, yes=True)
    shutil.rmtree(home.home)
    tell(
        f"desktop at {megabits} Mbit/s: {fresh:.1f} s ({checked:.1f} of them the check-out), {received / MIB:.1f} MiB before it; "
        f"{local:.1f} s from this disk"
    )
    return Arrival(fresh, local, received)


def _download(here: Stage, name: str, megabits: int) -> float:
    """Seconds until all of the image is here, nothing being started."""
    here.link.shape(0, 0)
    with here.device(name) as (home, client):
        here.enrol(client)
        here.link.shape(megabits, DELAY)
        began = time.monotonic()
        client.finish("checkout", workspace=WORK, limit=300)
        _whole(client)
        took = time.monotonic() - began
        here.link.shape(0, 0)
        client.finish("discard", workspace=WORK, yes=True)
    shutil.rmtree(home.home)
    tell(f"desktop at {megabits} Mbit/s: {took:.1f} s to download all of it")
    return took


def desktop(folder: Path, rounds: int, others: Sequence[int] = OTHERS) -> list[Row]:
    NOTES[:] = [
        (
            f"desktop: {RATE} Mbit/s, {DELAY} ms there and back, packets of 9000 bytes, carried between two network namespaces "
            "by a program; from the request to check out, on an enrolled device, to the guest's session."
        )
    ]
    with stage(folder, rounds + 2 * (len(others) + 1)) as here:
        runs = [_arrive(here, f"device{number}", RATE) for number in range(rounds)]
        fresh, local = [one.fresh for one in runs], [one.local for one in runs]
        shares = [one.received / here.image * 100 for one in runs]
        what = f"check-out to a usable desktop, {RATE} Mbit/s and {DELAY} ms"
        rows = [
            row(f"{what}, against booting what is here", "s", fresh, {"local boot": local}, at_most=1.25),
            row(f"{what}: of the compressed image sent before it", "%", shares, {}, at_most=25),
        ]
        middle = sorted(local)[len(local) // 2]
        for megabits in sorted({RATE, *others}):
            ours = fresh if megabits == RATE else [_arrive(here, f"at{megabits}", megabits).fresh]
            first = [_download(here, f"all{megabits}", megabits) + middle]
            least = (here.image * 8 / megabits / 1e6 + middle) / middle
            rows.append(
                row(f"check-out to a desktop at {megabits} Mbit/s, against downloading first; at best 1/{least:.2f}", "s",
                    ours, {"download, then boot": first})
            )  # fmt: skip
    return rows
