"""Two devices of one person and a server, each a machine of its own on a network whose cables are pulled."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fault.test_cli_whole import Typed
from tests.fault.test_moving import AT, Vault
from tests.fault.test_roaming import until
from tests.harness.company import Company, Device
from tests.harness.netns import Network
from twofold.agent.client import Client
from twofold.model.policy import Policy

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]
SERVER, A, B = "server", "a", "b"


@dataclass
class Net:
    network: Network
    company: Company


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """The tests themselves, and so the administrator, sit at the server."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    with (
        Network([SERVER, A, B]) as network,
        network.at(SERVER),
        Company(tmp_path_factory.mktemp("net"), network.address[SERVER]) as company,
    ):
        company.publish("tiny")
        yield Net(network, company)


@dataclass
class Machine:
    device: Device
    client: Client
    vault: Vault
    name: str

    @property
    def key(self) -> str:
        return str(self.client.call("device")["key"])


class Person:
    def __init__(self, net: Net, folder: Path) -> None:
        self.net, self.folder, self.machines = net, folder, list[Machine]()
        self.name = net.company.user(f"netizen{os.urandom(3).hex()}")
        self.number = net.company.grant(
            self.name, "tiny", "work", "blue", Policy(heartbeat_seconds=60, keys_leave=True)
        )

    def machine(self, name: str) -> Machine:
        """A device at that place, enrolled."""
        device = Device(self.folder / name)
        with self.net.network.at(name):
            client = device.start()
        client.call("enrol", url=self.net.company.admin.invite_device(self.name), name=name)
        self.machines.append(Machine(device, client, Vault(device, self.folder / "r"), name))
        return self.machines[-1]

    def kinds(self) -> list[tuple[str, str]]:
        """Newest first."""
        rows = self.net.company.admin.list_generations(self.number)
        return [(row["kind"], row["device_name"]) for row in rows]

    def head(self) -> str:
        return str(self.net.company.admin.workspace(self.number)["head"])


@pytest.fixture
def person(net: Net, tmp_path: Path) -> Iterator[Person]:
    made = Person(net, tmp_path)
    yield made
    for machine in made.machines:
        net.network.plug(machine.name)
        machine.client.close()
        with net.network.at(machine.name):
            machine.device.close()


def test_a_device_that_was_cut_off_comes_back_late_and_is_a_branch(net: Net, person: Person, tmp_path: Path) -> None:
    admin = net.company.admin
    a, b = person.machine(A), person.machine(B)
    a.client.finish("checkout", workspace="work", limit=60)
    early, late, after = (os.urandom(100_000) for _ in range(3))
    a.vault.write(early)
    a.client.finish("backup", workspace="work", key=b.key, limit=60)

    net.network.pull(A)
    a.vault.write(late)
    admin.break_lease(person.number, admin.loss(person.number)["loss"], "cut off")
    b.client.finish("checkout", workspace="work", limit=60)
    assert b.vault.read(len(early)) == early, "from the last back up, not from what is only at A"
    b.vault.write(after, AT + (1 << 20))
    line = b.client.finish("backup", workspace="work", limit=60)["result"]
    assert a.vault.read(len(late)) == late, "cut off, it goes on with what is its own"

    net.network.plug(A)
    until(lambda: a.client.call("info", workspace="work")["error"] is not None, 90)
    branch = a.client.finish("backup", workspace="work", limit=60)["result"]
    assert (branch["kind"], line["kind"]) == ("branch", "line")
    # Which of two in one second is the newer is not said.
    assert sorted(person.kinds()) == [("branch", "a"), ("line", "a"), ("line", "b")]
    assert person.head() == line["id"]

    # The administrator lists it, looks into it and restores it, as it is typed.
    typed = Typed(tmp_path / "admin")
    typed("login", admin.place.origin, "--pin", admin.pin, stdin=f"{net.company.password}\n")
    points = typed.json("lease", "points", str(person.number))["points"]
    assert sorted(each["kind"] for each in points) == ["branch", "line", "line"]
    assert all(row["here"] for row in admin.generation(person.number, branch["id"])["files"])
    b.client.finish("checkin", workspace="work", limit=60)
    typed("lease", "restore", str(person.number), branch["id"][:16], "--yes")
    b.client.finish("checkout", workspace="work", limit=60)
    assert b.vault.read(len(late)) == late
    assert b.vault.read(len(after), AT + (1 << 20)) == bytes(len(after)), "nothing was mixed"
    newest = next(row for row in admin.list_generations(person.number) if row["id"] == person.head())
    assert newest["kind"] == "restore"


@pytest.mark.parametrize("lost", [False, True], ids=["late", "lost"])
def test_the_servers_answers_do_not_arrive(net: Net, person: Person, lost: bool) -> None:
    a = person.machine(A)
    a.client.finish("checkout", workspace="work", limit=60)
    data = os.urandom(100_000)
    a.vault.write(data)
    with net.network.unanswered(A, by=SERVER):
        begun = a.client.call("backup", workspace="work")["operation"]
        time.sleep(1.5)
        assert a.client.call("job", operation=begun)["state"] == "running"
        if lost:
            net.company.kill()  # with it goes all that was to be sent again
    if lost:
        net.company.mend()
    done = a.client.call("job", operation=begun, wait=90.0)
    assert done["state"] == "done", done["error"]
    assert person.kinds() == [("line", "a")]
    assert done["result"]["id"] == person.head()


def test_a_bad_contact_during_back_up_and_check_in(net: Net, person: Person) -> None:
    a = person.machine(A)
    a.client.finish("checkout", workspace="work", limit=60)
    first, second = os.urandom(5 << 20), os.urandom(2 << 20)
    a.vault.write(first)
    with net.network.flapping(A, up=0.15, down=0.35) as times:
        a.client.finish("backup", workspace="work", limit=90)
        assert person.kinds() == [("line", "a")]
        a.vault.write(second)
        a.client.finish("checkin", workspace="work", limit=90)
    assert times, "it was never out"
    assert a.client.call("list")["workspaces"] == []
    assert person.kinds() == [("line", "a")] * 2
    a.client.finish("checkout", workspace="work", limit=60)
    assert a.vault.read(len(second)) == second
    assert a.vault.read(len(first) - len(second), AT + len(second)) == first[len(second) :]
