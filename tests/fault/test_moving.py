"""A workspace goes from one device to another in a folder: with the command line, two agents and a real server, no machine."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_cli_whole import Typed
from tests.harness.company import COUNT_AT, Company, Device
from twofold.agent.client import Client
from twofold.agent.store import KEY
from twofold.model.errors import ConflictError, DamagedError, NotFoundError, RefusedError, TwofoldError, UsageError
from twofold.model.policy import Policy
from twofold.vault import nbd
from twofold.vault.afar import RECORD
from twofold.vault.seam import Keys, OpenVault
from twofold.vault.store import SealedVault

DATA = b"what the first one saved" * 40_000
AT = 8 << 20


@pytest.fixture
def user(company: Company) -> str:
    name = company.user(f"mover{os.urandom(3).hex()}")
    company.grant(name, "tiny", "work", "blue", Policy(keys_leave=True))
    company.grant(name, "direct", "direct", "teal")
    return name


@pytest.fixture
def other(company: Company, user: str, tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "other")
    with made.start() as connected:
        connected.call("enrol", url=company.admin.invite_device(user), name="desk")
    yield made
    made.close()


class Vault:
    """A workspace's store on a device, opened beside its agent, which does not run it."""

    def __init__(self, device: Device, runtime: Path) -> None:
        self.folder = device.dirs.state / "workspaces" / "work"
        self.vaults = SealedVault(device.dirs.state / "device", device.dirs.state / "anchors")
        self.runtime = runtime
        runtime.mkdir(mode=0o700, exist_ok=True)

    def open(self, keys: bytes | None = None) -> OpenVault:
        wrapped = (self.folder / KEY).read_bytes() if keys is None else keys
        end = time.monotonic() + 60  # its agent brings what is still with the server
        while (self.folder / "vault" / RECORD).exists():
            assert time.monotonic() < end, "not all of it came"
            time.sleep(0.05)
        return self.vaults.open(self.folder / "vault", Keys("work", wrapped), self.runtime)

    def write(self, data: bytes, at: int = AT) -> None:
        vault = self.open()
        try:
            with vault.connect("system") as stream:
                client = nbd.Client(stream, "system")
                client.write(at, data)
                client.flush()
        finally:
            vault.close()

    def read(self, length: int, at: int = AT) -> bytes:
        vault = self.open()
        try:
            with vault.connect("system") as stream:
                return nbd.Client(stream, "system").read(at, length)
        finally:
            vault.close()


def test_a_workspace_goes_on_on_another_device_as_a_person_would_do_it(
    client: Client, work: str, device: Device, other: Device, tmp_path: Path
) -> None:
    here, there, stick = Typed(device.home), Typed(other.home), tmp_path / "stick"
    Vault(device, tmp_path / "r").write(DATA)
    first, second = here.json("disk", "key"), there.json("disk", "key")
    done = here.json("disk", "export", "--to", str(stick), "--for", second["key"])["result"]
    assert done["sent_files"] == done["files"] > 1
    assert done["signer"] == first["device"]
    record = json.loads((stick / "generation.json").read_bytes())
    assert record.keys() == {"payload", "signatures"}
    # Again: nothing new but a root or two.
    Vault(device, tmp_path / "r").write(b"more" * 1024, AT + (4 << 20))
    again = here.json("disk", "export", "--to", str(stick), "--for", second["key"])["result"]
    assert again["generation"] > done["generation"]
    assert again["sent_files"] < again["files"]
    assert again["sent_bytes"] < 100_000 < again["bytes"]
    names = {path.name for path in stick.iterdir()}
    assert len([name for name in names if name[:2] in ("s-", "p-")]) == again["files"]
    # While the first one holds the lease nobody goes on elsewhere.
    there("disk", "import", str(stick), "work", "--from", first["device"], code=6)
    there("disk", "import", str(stick), "work", code=5)
    assert "disk key" in there.err
    there("disk", "import", str(stick), "work", "--from", "f" * 64, code=5)
    kept = tmp_path / "kept"
    shutil.copytree(device.dirs.state / "workspaces" / "work", kept)
    here("remove", "work", "--yes")
    said = there("disk", "import", str(stick), "work", "--from", first["device"])
    assert "key epoch 2" in said
    there("disk", "import", str(stick), "work", "--from", first["device"], code=6)
    assert there.json("info", "work")["run"] == "off"
    moved = Vault(other, tmp_path / "r")
    assert moved.read(len(DATA)) == DATA
    assert moved.read(4096, AT + (4 << 20)) == b"more" * 1024
    moved.write(b"by the second one" * 1000)
    assert "Everything is whole." in there("disk", "verify", "work")
    assert "already at the newest format" in there("disk", "upgrade", "work")
    # What the first one had opens nothing of it, with all of the second one's files in hand.
    shutil.rmtree(kept / "vault")
    shutil.copytree(moved.folder / "vault", kept / "vault")
    old = Vault(device, tmp_path / "r")
    old.folder = kept
    with (
        pytest.raises(TwofoldError),
        old.vaults.resting(kept / "vault", Keys("work", (kept / KEY).read_bytes()), accept=True),
    ):
        pass
    # And on the way back there is a third epoch.
    back = there.json("disk", "export", "--to", str(stick), "--for", first["key"])["result"]
    assert back["signer"] == second["device"]
    there("remove", "work", "--yes")
    assert "key epoch 3" in here("disk", "import", str(stick), "work", "--from", second["device"])
    assert Vault(device, tmp_path / "r").read(17_000) == b"by the second one" * 1000


@pytest.mark.vm
def test_a_machine_that_runs_is_copied_and_boots_elsewhere(
    client: Client, work: str, device: Device, other: Device, tmp_path: Path
) -> None:
    stick = str(tmp_path / "stick")
    with other.client() as there:
        key = there.call("device")["key"]
        client.finish("start", workspace=work)
        first = client.finish("disk_export", workspace=work, to=stick, key=key)["result"]
        time.sleep(2)  # it counts, and writes the count, 18 times a second
        again = client.finish("disk_export", workspace=work, to=stick, key=key)["result"]
        assert again["generation"] > first["generation"]
        assert again["sent_bytes"] < 2 << 20
        assert client.call("info", workspace=work)["run"] == "running"
        client.finish("suspend", workspace=work)
        client.finish("disk_export", workspace=work, to=stick, key=key)
        client.finish("remove", workspace=work, yes=True)
        done = there.finish("disk_import", workspace=work, folder=stick, signer=client.call("device")["device"])[
            "result"
        ]
        assert done["memory_forgotten"] is True
        assert there.call("info", workspace=work)["memory_stored"] is False
        vault = Vault(other, tmp_path / "r")
        count = int.from_bytes(vault.read(4, COUNT_AT), "little")
        assert count > 18
        started = there.finish("start", workspace=work)["result"]
        assert started["resumed"] is False
        time.sleep(1)
        there.finish("off", workspace=work)
        assert 0 < int.from_bytes(vault.read(4, COUNT_AT), "little") < count + 100, "it counts anew"


def test_a_device_that_exports_for_itself_needs_nobodys_word(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    mine = client.call("device")
    Vault(device, tmp_path / "r").write(DATA)
    client.finish("disk_export", workspace=work, to=str(tmp_path / "stick"), key=mine["key"])
    with pytest.raises(ConflictError, match="already"):
        client.finish("disk_import", workspace=work, folder=str(tmp_path / "stick"))
    client.finish("remove", workspace=work, yes=True)
    done = client.finish("disk_import", workspace=work, folder=str(tmp_path / "stick"))["result"]
    assert (done["epoch"], done["memory_forgotten"]) == (2, False)
    assert Vault(device, tmp_path / "r").read(len(DATA)) == DATA


def test_what_the_company_does_not_allow_and_what_makes_no_sense_is_refused(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    stick, key = str(tmp_path / "stick"), "11" * 32
    client.finish("checkout", workspace="direct")
    with pytest.raises(RefusedError, match="does not allow"):
        client.finish("disk_export", workspace="direct", to=stick, key=key)
    assert not (tmp_path / "stick").exists()
    for to, key, generation, kind in (
        ("stick", "", 0, UsageError), (stick, "zz", 0, TwofoldError), (stick, "00" * 32, 0, TwofoldError),
        (stick, "", 99, NotFoundError), (f"{stick}/a/b", "", 0, NotFoundError),
    ):  # fmt: skip
        with pytest.raises(kind):
            client.finish("disk_export", workspace=work, to=to, key=key, generation=generation)
    client.finish("disk_export", workspace=work, to=stick)
    with pytest.raises(ConflictError, match="holds the workspace work"):
        client.finish("disk_export", workspace="direct", to=stick)
    with pytest.raises(ConflictError, match="sealed store itself"):
        client.finish("disk_export", workspace=work, to=str(device.dirs.state / "workspaces" / "work" / "vault"))
    client.finish("remove", workspace=work, yes=True)
    with pytest.raises(RefusedError, match="no key"):
        client.finish("disk_import", workspace=work, folder=stick)
    with pytest.raises(ConflictError, match="not direct"):
        client.finish("remove", workspace="direct", yes=True)
        client.finish("disk_import", workspace="direct", folder=stick)


def test_a_workspace_that_is_locked_gives_its_keys_to_nobody(
    client: Client, work: str, device: Device, company: Company, tmp_path: Path
) -> None:
    key = client.call("device")["key"]
    device.quit()
    path = device.dirs.state / "workspaces" / "work" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"taken": True}))
    # The server would say that it is not so.
    with company.standing_still(), device.start() as again:
        with pytest.raises(RefusedError, match="taken back"):
            again.finish("disk_export", workspace=work, to=str(tmp_path / "stick"), key=key)
        # What nobody can open may be copied as a backup of this very disk.
        assert again.finish("disk_export", workspace=work, to=str(tmp_path / "stick"))["result"]["key_for"] == ""


def lies(document: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """What a hostile folder may say in each field, and leave out."""
    for name in document:
        wrong: tuple[object, ...] = (None, -1, 1 << 60, "", "../../x", "x" * 300, [], {}, 1.5, True)
        for value in wrong:
            harmless = (name in ("note", "parent") and value == "") or (name == "note" and value == "../../x")
            if value != document[name] and not harmless:
                yield name, value


def test_every_field_of_a_hostile_record_is_refused_and_nothing_is_changed(
    client: Client, work: str, device: Device, tmp_path: Path
) -> None:
    """Signed by the very device that imports it, so that nothing but the shape stands in the way."""
    from twofold.model.canonical import canonical
    from twofold.trust.device import identity
    from twofold.trust.signed import Context, sign, verify

    stick, mine = tmp_path / "stick", client.call("device")
    Vault(device, tmp_path / "r").write(DATA)
    client.finish("disk_export", workspace=work, to=str(stick), key=mine["key"])
    client.finish("remove", workspace=work, yes=True)
    who = identity(device.dirs.state)
    good = json.loads((stick / "generation.json").read_bytes())
    document = verify(Context.GENERATION, good, [who.verify_key])

    def refused(what: object) -> None:
        (stick / "generation.json").write_bytes(json.dumps(what).encode())
        with pytest.raises(TwofoldError) as said:
            client.finish("disk_import", workspace=work, folder=str(stick))
        assert said.value.code != "failed", said.value.happened
        assert client.call("list")["workspaces"] == []
        assert not (device.dirs.state / "workspaces" / "work").exists()

    def signed(what: dict[str, Any]) -> dict[str, Any]:
        try:
            return sign(Context.GENERATION, what, who.signing)
        except TypeError:  # floats cannot be signed at all
            return {"payload": "", "signatures": []}

    for name, value in lies(document):
        refused(signed(document | {name: value}))
    for name in document:
        refused(signed({key: value for key, value in document.items() if key != name}))
    refused(signed(document | {"more": 1}))
    row = document["files"][0]
    for change in (
        {"name": "../../../etc/passwd"}, {"name": "vault"}, {"name": "head.a"}, {"name": row["name"] + "/x"},
        {"name": row["name"].upper()},
        {"length": 0}, {"length": 1 << 40}, {"length": row["length"] - 1}, {"length": row["length"] + 1}, {"digest": "0" * 64},
        {"digest": "x"}, {"name": "s-00000000000000ff"}, {"extra": 1},
    ):  # fmt: skip
        refused(signed(document | {"files": [row | change, *document["files"][1:]]}))
    refused(signed(document | {"files": document["files"][::-1] + document["files"]}))
    refused(signed(document | {"files": []}))
    rest: tuple[object, ...] = (
        {},
        [],
        "x",
        {"payload": "e30=", "signatures": []},
        good | {"signatures": good["signatures"] * 9},
    )
    for each in rest:
        refused(each)
    torn = bytearray(canonical(good))
    torn[torn.index(b'"sig":"') + 12] ^= 1
    (stick / "generation.json").write_bytes(torn)
    with pytest.raises(TwofoldError):
        client.finish("disk_import", workspace=work, folder=str(stick))
    (stick / "generation.json").unlink()
    with pytest.raises(DamagedError, match="missing"):
        client.finish("disk_import", workspace=work, folder=str(stick))
    (stick / "generation.json").symlink_to("/proc/self/environ")
    with pytest.raises(TwofoldError):
        client.finish("disk_import", workspace=work, folder=str(stick))
    (stick / "generation.json").unlink()
    (stick / "generation.json").write_bytes(canonical(good))
    client.finish("disk_import", workspace=work, folder=str(stick))
    assert Vault(device, tmp_path / "r").read(len(DATA)) == DATA
