"""A laptop that is amd64 and a device that is arm64, one person, one published version: the user's disk goes from one to the
other, each has its own system, and what cannot go is said before anything is done. Real agents and vaults, no machine."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fault.test_change import Disks, asked
from tests.fault.test_roaming import until
from tests.harness.company import SIZE, Company, Device, Tiny, tiny
from tests.harness.kind import Other
from twofold.agent.change import NEXT
from twofold.agent.client import Client
from twofold.agent.parts import open_manifest
from twofold.agent.store import IMAGE
from twofold.image.catalogue import Catalogue
from twofold.model.errors import ConflictError
from twofold.model.generation import Manifest
from twofold.model.image import Arch, Part, SystemMode
from twofold.model.policy import Policy
from twofold.trust.device import identity

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]
USER_DISK = 8 << 20
FIRST, SECOND = b"written on the laptop" * 3000, b"written on the other one" * 3000
Pair = dict[Arch, Tiny]


def built(folder: Path, name: str, mode: SystemMode) -> Pair:
    """Both builds of an image; arm64's system is the larger one."""
    made = {}
    for arch in Arch:
        one = tiny(folder / name / arch, name, arch=arch)
        system = one.path("system").read_bytes() + (os.urandom(1 << 20) if arch is Arch.ARM64 else b"")
        one.path("system").write_bytes(system)
        parts = (Part("system", len(system), hashlib.sha256(system).hexdigest()),)
        manifest = dataclasses.replace(one.manifest, parts=parts, mode=mode, user_disk_size=USER_DISK)
        made[arch] = Tiny(one.folder, manifest)
    return made


def publish(company: Company, pair: Pair, share: int = 100) -> None:
    company.admin.publish_image(
        pair[Arch.AMD64], company.publisher, share=share, also=[(pair[Arch.ARM64], None)] if Arch.ARM64 in pair else []
    )


@pytest.fixture(scope="module")
def images(company: Company, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """An image whose system begins anew at each start, and one whose system keeps what is installed in it."""
    folder, made = tmp_path_factory.mktemp("images"), {}
    for name, mode in (("fresh", SystemMode.STATELESS), ("lasting", SystemMode.PERSISTENT)):
        made[name] = built(folder, name, mode)
        publish(company, made[name])
    return made


@pytest.fixture
def user(company: Company, images: dict[str, Pair], request: pytest.FixtureRequest) -> str:
    name, image = company.user(f"both{os.urandom(3).hex()}"), getattr(request, "param", "fresh")
    company.grant(name, image, "work", "blue", Policy(keys_leave=True))
    return name


@pytest.fixture
def arm(tmp_path: Path) -> Iterator[Device]:
    made = Other(tmp_path / "arm", Arch.ARM64)
    yield made
    made.close()


@pytest.fixture
def other(company: Company, user: str, arm: Device) -> Iterator[Client]:
    with arm.start() as connected:
        connected.call("enrol", url=company.admin.invite_device(user), name="phone")
        yield connected


def key(client: Client) -> str:
    return str(client.call("device")["key"])


def out(client: Client, **how: Any) -> None:
    client.finish("checkout", workspace="work", limit=60, **how)
    whole(client)


def whole(client: Client) -> None:
    """All of it is here."""
    until(lambda: client.call("info", workspace="work")["rest"] is None, 60)
    until(lambda: (base := client.call("info", workspace="work")["base"]) is None or base["here"] == base["of"], 60)


def system(disks: Disks, built: Tiny) -> bool:
    expected = built.path("system").read_bytes()
    return disks.read("system", len(expected), 0) == expected


def test_a_workspace_goes_to_another_kind_of_machine_and_back(
    company: Company,
    client: Client,
    other: Client,
    user: str,
    device: Device,
    arm: Device,
    images: dict[str, Pair],
    tmp_path: Path,
) -> None:
    here, there = Disks(device, tmp_path / "r"), Disks(arm, tmp_path / "r")
    out(client)
    here.write("user", FIRST, 0)
    assert system(here, images["fresh"][Arch.AMD64])
    client.finish("backup", workspace="work", key=key(other), limit=60)
    client.finish("checkin", workspace="work", limit=60)

    out(other)
    info = other.call("info", workspace="work")
    assert (info["image"], info["version"], info["error"]) == ("fresh", 1, None)
    assert there.read("user", len(FIRST), 0) == FIRST
    assert system(there, images["fresh"][Arch.ARM64])
    checked = other.finish("disk_check", workspace="work", data=True, limit=60)["result"]["devices"]
    assert {(each["name"], each["lost"]["bytes"]) for each in checked} == {("system", 0), ("user", 0)}
    there.write("user", SECOND, 4 << 20)
    folder = tmp_path / "stick"
    other.finish("disk_export", workspace="work", to=str(folder), key=key(client), limit=60)
    saved = other.finish("backup", workspace="work", key=key(client), limit=60)["result"]["id"]
    other.finish("checkin", workspace="work", limit=60)
    number = company.admin.find_workspace(user, "work")["number"]
    payload = base64.b64decode(company.admin.generation(number, saved)["generation"]["payload"])
    assert Manifest.from_wire(json.loads(payload)).arch == "arm64"

    # Home by a folder, and then by the server.
    signer = other.call("device")["device"]
    client.finish("disk_import", workspace="work", folder=str(folder), signer=signer, limit=60)
    for _ in range(2):
        whole(client)
        assert here.read("user", len(FIRST), 0) == FIRST
        assert here.read("user", len(SECOND), 4 << 20) == SECOND
        assert system(here, images["fresh"][Arch.AMD64])
        client.finish("discard", workspace="work", yes=True, limit=60)
        out(client)


@pytest.mark.parametrize("user", ["lasting"], indirect=True)
def test_what_was_installed_in_a_system_stays_with_its_kind_of_machine(
    company: Company, client: Client, other: Client, user: str, device: Device, arm: Device, tmp_path: Path
) -> None:
    out(client)
    here, folder = Disks(device, tmp_path / "r"), tmp_path / "stick"
    here.write("system", FIRST, SIZE // 2)
    client.finish("disk_export", workspace="work", to=str(folder), key=key(other), limit=60)
    client.finish("backup", workspace="work", key=key(other), limit=60)
    client.finish("checkin", workspace="work", limit=60)
    signer = client.call("device")["device"]
    for verb, how in (("checkout", {}), ("disk_import", {"folder": str(folder), "signer": signer})):
        with pytest.raises(ConflictError) as told:
            other.finish(verb, workspace="work", limit=60, **how)
        assert "comes from amd64 machines" in told.value.happened
        assert "Nothing was changed" in told.value.safe
        assert "Use a machine that is amd64" in told.value.next
        assert company.admin.find_workspace(user, "work")["status"] == "checked-in"
        assert other.call("list")["workspaces"] == []
        assert not (arm.dirs.state / "workspaces" / "work").exists()
    out(client)
    assert here.read("system", len(FIRST), SIZE // 2) == FIRST


def test_a_version_without_ones_kind_is_refused_in_words_at_any_time(
    company: Company, other: Client, user: str, arm: Device, tmp_path: Path
) -> None:
    image = f"one{os.urandom(2).hex()}"
    pair = built(tmp_path, image, SystemMode.STATELESS)
    publish(company, {Arch.AMD64: pair[Arch.AMD64]})
    company.grant(user, image, "second", "teal")
    with pytest.raises(ConflictError, match="is for amd64 machines; this one is arm64"):
        other.finish("checkout", workspace="second", limit=60)
    assert other.call("list")["workspaces"] == []
    offered = {row["workspace"]: row["bytes"] for row in other.call("available")["grants"]}
    assert offered["second"] == 0 < offered["work"]

    # One that is out goes to a version that has its kind, and to no other.
    out(other)
    newest = company.admin.newest("fresh")["version"]
    catalogue = Catalogue(company.publisher, company.admin)
    later = {arch: dataclasses.replace(pair[arch].manifest, image="fresh") for arch in Arch}
    both = {arch: Tiny(pair[arch].folder, manifest) for arch, manifest in later.items()}
    publish(company, {Arch.AMD64: both[Arch.AMD64]}, share=0)
    Catalogue(company.publisher, company.admin).promote("fresh", newest + 1, channel="try")
    done = asked(company, user, "upgrade", newest + 1)
    assert (done["state"], "this one is arm64" in done["receipt"]["detail"]) == ("failed", True), done
    assert other.call("info", workspace="work")["pending"] is None
    catalogue = Catalogue(company.publisher, company.admin)
    catalogue.promote("fresh", 1, channel="try")
    company.admin.extend_image(both[Arch.ARM64], newest + 1, company.publisher)
    Catalogue(company.publisher, company.admin).promote("fresh", newest + 1, channel="try")
    done = asked(company, user, "upgrade", newest + 1)
    assert done["state"] == "done", done
    described = (arm.dirs.state / "workspaces" / "work" / NEXT / IMAGE).read_bytes()
    image_there, _ = open_manifest(identity(arm.dirs.state).verify_key, described)
    assert (image_there.version, image_there.arch) == (newest + 1, Arch.ARM64)
