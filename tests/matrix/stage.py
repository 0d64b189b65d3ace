"""A company, a device and what can go wrong between them, at any step."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fault.test_moving import Vault
from tests.harness.company import TREE, Company, Device, Program
from tests.harness.mold import Mold
from tests.harness.mortal import AGENT_MODULES, SERVER_MODULES, Hand
from tests.harness.relay import Relay
from tests.harness.tape import Cut, Tape, library
from twofold.agent.client import Client
from twofold.model.errors import ConflictError, TwofoldError
from twofold.model.policy import Policy

BUILT = TREE / "out" / "cache" / "tape"
# Nothing of an operation's: they come by the clock.
BESIDE = r"device/(wait|hello|roles|starts|grants)\b|server: (asked|answers) (GET|(?!\w+ device/))"
BEATS = r"|device/heartbeat"


class Watched(Company):
    """A server that says where it is, on a disk that can be full."""

    def __init__(self, folder: Path, hand: Hand, mold: Mold) -> None:
        super().__init__(folder)
        self._hand, self._mold = hand, mold
        self.tape = Tape(folder / "server", folder / "server-tape", BUILT)

    def _started(self, log: Path) -> Program:
        words = [str(self._hand.path), "server", str(self.home), str(self.port)]
        return self._mold.start(words, dict(os.environ) | self.tape.environment, log)

    def lose_power(self, how: Cut, dice: random.Random) -> None:
        self.kill()
        self.tape.cut(how, dice)

    def lives(self) -> None:
        """It has not ended by itself."""
        assert self.process.poll() is None, f"the server has ended by itself: {self.process.poll()}"


class Laptop(Device):
    """A device whose agent says where it is, behind a network that can be cut, on a disk that can be full or lose its power."""

    def __init__(self, home: Path, hand: Hand, mold: Mold, relay: Relay) -> None:
        super().__init__(home)
        self._hand, self._mold, self.relay = hand, mold, relay
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.tape = Tape(home, home.parent / f"{home.name}-tape", BUILT)

    def _started(self, env: dict[str, str]) -> Program:
        return self._mold.start([str(self._hand.path), "agent"], env | self.tape.environment)

    def enrol(self, client: Client, company: Company, user: str, name: str) -> None:
        url = company.admin.invite_device(user).replace(f":{company.port}/", f":{self.relay.port}/")
        client.call("enrol", url=url, name=name)

    def vaultds(self) -> list[int]:
        """The vault processes of this device: its agent's children, and those that an agent left."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                if (entry / "comm").read_text().strip() == "twofold-vaultd":
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    parent = int(fields[1])
                    if fields[0] not in "ZX" and (self.process is None or parent in (self.process.pid, os.getpid())):
                        found.append(int(entry.name))
        return found

    def kill_vaultds(self) -> int:
        killed = 0
        for pid in self.vaultds():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        return killed

    def lose_power(self, how: Cut, dice: random.Random) -> None:
        self.kill()
        self.kill_vaultds()
        deadline = time.monotonic() + 10
        while self.vaultds() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.tape.cut(how, dice)
        shutil.rmtree(self.dirs.runtime, ignore_errors=True)


class Stage:
    """One company; a device in hand, `spare` beside it. `client` is always a live agent's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._undo = folder, ExitStack()
        self._users = 0

    def __enter__(self) -> Self:
        made = library(BUILT)
        self._agents = self._undo.enter_context(Mold(AGENT_MODULES, made))
        servers = self._undo.enter_context(Mold(SERVER_MODULES, made))
        self.hand = self._undo.enter_context(Hand(self.folder / "hand", BESIDE + BEATS))
        self.company = self._undo.enter_context(Watched(self.folder / "company", self.hand, servers))
        self.relay = self._undo.enter_context(Relay(self.company.port))
        self.company.publish("tiny")
        self._people = self._undo.enter_context(ExitStack())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def hear_beats(self, *, on: bool) -> None:
        """Whether heartbeats are steps of what is done: where the company asks for something they carry it."""
        self.hand.without(BESIDE if on else BESIDE + BEATS)

    def mend(self) -> None:
        """Whatever a cell that failed has left broken."""
        self.hand.begin()
        self.relay.mend()
        self.company.tape.free()
        if self.company.process.poll() is not None:
            self.company.mend()

    def people(self) -> None:
        """A new person with two new devices, and nothing of the former one's."""
        self._people.close()
        self._users += 1
        self.user = self.company.user(f"person{self._users}")
        self.number = self.company.grant(self.user, "tiny", "work", "blue", Policy(keys_leave=True, disk_gib=1024))
        home = self.folder / f"p{self._users}"
        home.mkdir(mode=0o700)
        self.device, self.spare = (
            Laptop(home / "device", self.hand, self._agents, self.relay),
            Laptop(home / "spare", self.hand, self._agents, self.relay),
        )
        self._people.callback(self._ended)
        self.client = self.device.start()
        self.device.enrol(self.client, self.company, self.user, "laptop")
        runtime = home / "r"
        self.vault = Vault(self.device, runtime)
        self.stick = home / "stick"
        self.second: Client | None = None
        self.facts: dict[str, Any] = {}

    def _ended(self) -> None:
        for client, device in ((self.client, self.device), (self.second, self.spare)):
            if client is not None:
                client.close()
                device.kill()
                device.kill_vaultds()
        shutil.rmtree(self.device.home.parent, ignore_errors=True)

    def other(self) -> Client:
        """The other device's agent."""
        if self.second is None:
            self.second = self.spare.start()
            self.spare.enrol(self.second, self.company, self.user, "desk")
        return self.second

    def again(self) -> None:
        """The agent lives; if it does not, it was killed, and never ends by itself."""
        assert self.device.process is not None
        ended = self.device.process.poll()
        assert ended in (None, -signal.SIGKILL), f"the agent has ended by itself: {ended}"
        if ended is not None:
            self.client.close()
            self.client = self.device.start()

    def row(self) -> dict[str, Any]:
        return self.company.admin.workspace(self.number)

    def here(self) -> bool:
        return any(each["custody"] == "checked-out" for each in self.client.call("list")["workspaces"])

    def listed(self) -> bool:
        return bool(self.client.call("list")["workspaces"])

    def backup(self) -> str:
        return str(self.client.finish("backup", workspace="work", limit=60)["result"]["id"])

    def checkout(self) -> None:
        """Whatever the state, it is checked out here now."""
        if not self.here():
            self.client.finish("checkout", workspace="work", limit=60)
        self.whole()

    def whole(self, seconds: float = 20) -> None:
        """All of its image is here: nothing is fetched in the background any more."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            base = self.client.call("info", workspace="work")["base"]
            if base and base["here"] == base["of"]:
                return
            time.sleep(0.02)

    def discard(self) -> None:
        if self.listed():
            # What a killed agent left is backed up by the next one, as soon as it has heard the server.
            until(lambda: not isinstance(self._discarded(), ConflictError), 30, 0.2)

    def _discarded(self) -> TwofoldError | None:
        try:
            self.client.finish("discard", workspace="work", yes=True, limit=60)
        except ConflictError as busy:
            return busy
        return None

    def read(self, size: int) -> bytes:
        """From the disks here, as soon as the agent has done with them: it may still end what one before it has begun."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.vault.read(size)
            except ConflictError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def settled(self, seconds: float = 60) -> None:
        """Nothing is under way on the device."""
        until(lambda: not self.busy(), seconds)

    def busy(self) -> bool:
        return any(each["state"] in ("queued", "running") for each in self.client.call("jobs")["operations"])

    def lease(self) -> str:
        return str(self.row()["device"])


def until(what: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
