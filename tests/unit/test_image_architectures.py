"""One version for several kinds of processor, through the real server: each device gets what is for it, or is told that there is
nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile, Targets

from tests.unit.roles_kit import Company, Machine, release
from tests.unit.server_kit import running
from tests.unit.test_publish_fetch import Folder
from twofold.agent.enrolment import enrol
from twofold.agent.remote import Remote
from twofold.engine import hardware
from twofold.image.catalogue import Catalogue
from twofold.image.export import export
from twofold.image.fetch import fetch, open_part
from twofold.image.sealed import unseal
from twofold.image.stick import bring
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError
from twofold.model.image import Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.model.machine import Accelerator, Disk, MemoryIdentity, Spec, misfits
from twofold.model.release import Release, Variant, bucket, offered
from twofold.server.client import Admin
from twofold.trust import roles
from twofold.trust.device import identity
from twofold.trust.publisher import Publisher, publisher

AMD64, ARM64 = Arch.AMD64, Arch.ARM64


def made(folder: Path, arch: Arch, image: str = "office", system: bytes = b"", user_disk: int = 1 << 20) -> Folder:
    """A build for an architecture: its own kernel and system, and the user's disk that all have."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "kernel": f"{image} {arch} ".encode() * 1000,
        "system": system or random.Random(f"{image} {arch}").randbytes(400_000),
        "user-template": random.Random(image).randbytes(200_000),
    }
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    rows = tuple(Part(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in parts.items())
    manifest = ImageVersion(image, 0, arch, Firmware.DIRECT, SystemMode.STATELESS, rows, user_disk_size=user_disk)
    return Folder(manifest, folder)


@dataclasses.dataclass(frozen=True)
class Office:
    admin: Admin
    maker: Publisher
    folder: Path

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.maker, self.admin)

    def both(self, image: str, share: int = 100) -> None:
        pair = [made(self.folder / image / arch, arch, image) for arch in (ARM64, AMD64)]
        self.admin.publish_image(pair[0], self.maker, share=share, also=[(pair[1], None)])

    def device(self, image: str, arch: Arch) -> Remote:
        """A device of that kind, whose user may check out `work` of the image."""
        user = f"{image}-{arch}"
        self.admin.create_user(user, "a long enough password")
        self.admin.add_grant(user, image, "work", "Work", "green")
        who = identity(self.folder / f"state-{user}")
        enrolment = enrol(self.admin.invite_device(user), user, who, bytes(32))
        return Remote(enrolment, who, self.folder / f"seen-{user}", arch)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    folder.chmod(0o700)
    with running(folder) as (admin, _):
        maker = publisher(folder / "publisher")
        admin.add_publisher(maker)
        yield Office(admin, maker, folder)


def row(office: Office, image: str) -> dict[str, Any]:
    return office.admin.list_versions(image)[0]


@pytest.mark.parametrize("arch", [AMD64, ARM64])
def test_a_device_gets_what_is_for_its_kind(office: Office, arch: Arch, tmp_path: Path) -> None:
    if office.admin.newest("pair")["version"] == 0:
        office.both("pair")
    assert (row(office, "pair")["version"], row(office, "pair")["architectures"]) == (1, ["amd64", "arm64"])
    remote = office.device("pair", arch)
    (grant,) = remote.grants()
    lease = remote.checkout("work").lease
    assert lease.image_version == 1
    index = remote.index("pair", 1)
    assert index.manifest.arch is arch
    assert grant.bytes == sum(index.ids.values())
    fetch(index.ids, remote, tmp_path / "cache")
    for part in ("kernel", "system", "user-template"):
        with open_part(index, part, tmp_path / "cache") as file:
            assert file.read() == (office.folder / "pair" / arch / part).read_bytes()
    other = AMD64 if arch is ARM64 else ARM64
    assert remote.index("pair", 1, other).manifest.arch is other, "what is here already can be of another kind"
    remote.close()


def test_the_users_disk_is_sent_once_and_nothing_is_published_twice(office: Office, tmp_path: Path) -> None:
    one, two = made(tmp_path / "a", AMD64, "once"), made(tmp_path / "b", ARM64, "once")
    first = office.admin.publish_image(one, office.maker, also=[(two, None)])
    alone = office.admin.publish_image(made(tmp_path / "c", AMD64, "lone"), office.maker)
    assert first.sent == first.stored == row(office, "once")["bytes"]
    assert first.stored < 2 * alone.stored - 150_000, "what both have is there once"
    for again in ([one, two], [two, one], [one]):
        done = office.admin.publish_image(again[0], office.maker, also=[(each, None) for each in again[1:]])
        assert (done.version, done.fresh, done.sent) == (1, False, 0)
    changed = made(tmp_path / "d", ARM64, "once", system=two.path("system").read_bytes()[:-4096] + bytes(4096))
    second = office.admin.publish_image(one, office.maker, also=[(changed, None)])
    assert (second.version, second.fresh) == (2, True)
    assert second.sent < alone.stored // 2
    assert office.catalogue.release("once", 2).archs == ("amd64", "arm64")


def test_each_architecture_has_its_own_order_of_the_first_start(office: Office, tmp_path: Path) -> None:
    one, two = made(tmp_path / "a", AMD64, "order"), made(tmp_path / "b", ARM64, "order")
    orders = {AMD64: [["system", 8192, 4096]], ARM64: [["kernel", 0, 4096], ["system", 0, 8192]]}
    office.admin.publish_image(one, office.maker, first_boot=orders[AMD64], also=[(two, orders[ARM64])])

    def recorded(version: int, arch: Arch) -> list[list[object]]:
        sealed = office.admin.index("order", version, arch)
        return [list(each) for each in unseal(sealed, office.maker.reading, "order", version).first_boot]

    assert {arch: recorded(1, arch) for arch in Arch} == orders
    again = [["system", 0, 4096]]
    second = office.admin.publish_image(one, office.maker, also=[(two, again)])
    assert (second.version, second.fresh) == (2, True), "a new record is news"
    assert {arch: recorded(2, arch) for arch in Arch} == {AMD64: orders[AMD64], ARM64: again}


def test_suspended_memory_is_of_one_architecture() -> None:
    """Where it was looked at on a machine of another kind, it does not fit, in words (a boot is then offered, by `start`)."""
    found = []
    for arch in Arch:
        spec = Spec("work", arch, Firmware.DIRECT, 1024, 2, (Disk("system", "vda", 1 << 20, read_only=True),), "")
        digest = hashlib.sha256(canonical(spec.to_wire())).hexdigest()
        kind, cpu = hardware.machine_type(spec), hardware.cpu(spec, Accelerator.TCG)
        found.append(MemoryIdentity("work", "h", "office", 1, Accelerator.TCG, "10.0.2", kind, cpu, digest))
    said = misfits(*found)
    assert any("another machine type" in each for each in said)
    assert any("another CPU model" in each for each in said)


def test_a_kind_that_a_version_has_nothing_for_is_told_before_anything_is_taken(office: Office) -> None:
    office.admin.publish_image(made(office.folder / "only", AMD64, "only"), office.maker)
    remote = office.device("only", ARM64)
    assert remote.grants()[0].bytes == 0
    with pytest.raises(ConflictError) as told:
        remote.checkout("work")
    assert told.value.happened == "Version 1 of only is for amd64 machines; this one is arm64."
    assert "published for arm64 as well" in told.value.next
    assert office.admin.find_workspace("only-arm64", "work")["status"] == "checked-in"
    # One that does not say what it is takes it, as devices of version 0.1 do; and finds out by what the publisher signed.
    remote._extensions = frozenset(remote._known() - {"architectures-1"})
    assert remote.checkout("work").lease.image_version == 1
    with pytest.raises(ConflictError, match="for amd64 machines"):
        remote.index("only", 1)
    remote.close()


def test_a_build_is_added_to_a_version_that_nobody_runs(office: Office, tmp_path: Path) -> None:
    office.admin.publish_image(made(tmp_path / "a", ARM64, "later"), office.maker, share=0)
    former = office.catalogue.release("later", 1)
    assert (former.arch, former.others) == ("arm64", {})
    build = made(tmp_path / "b", AMD64, "later")
    done = office.admin.extend_image(build, 1, office.maker)
    assert (done.version, done.fresh) == (1, True)
    now = office.catalogue.release("later", 1)
    assert (now.arch, now.others) == ("amd64", {"arm64": Variant(former.length, former.sha256)}), "amd64 has the path"
    assert row(office, "later")["architectures"] == ["amd64", "arm64"]
    with pytest.raises(ConflictError, match="has amd64 already"):
        office.admin.extend_image(build, 1, office.maker)
    office.catalogue.promote("later", 1)
    remote = office.device("later", ARM64)
    remote.checkout("work")
    assert remote.index("later", 1).manifest.arch is ARM64
    remote.close()
    office.admin.publish_image(made(tmp_path / "a", ARM64, "later", b"x" * 9000), office.maker)
    with pytest.raises(ConflictError, match="is on channel stable"):
        office.admin.extend_image(build, 2, office.maker)


def test_a_server_lets_nobody_add_to_what_is_given_out(office: Office, tmp_path: Path) -> None:
    """By itself, whatever a publisher's tool looked at."""
    office.admin.publish_image(made(tmp_path / "a", ARM64, "firm"), office.maker)
    given, catalogue = office.catalogue.release, Catalogue
    idle = dataclasses.replace(given("firm", 1), channels={})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "release", lambda *_: idle)
        with pytest.raises(ConflictError, match="given out already"):
            office.admin.extend_image(made(tmp_path / "b", AMD64, "firm"), 1, office.maker)
    assert row(office, "firm")["architectures"] == ["arm64"]


def test_builds_that_do_not_belong_together_are_refused(office: Office, tmp_path: Path) -> None:
    one = made(tmp_path / "a", AMD64, "odd")
    for other, why in (
        (made(tmp_path / "b", AMD64, "odd"), "one build for each architecture"),
        (made(tmp_path / "c", ARM64, "even"), "all of one image"),
        (made(tmp_path / "d", ARM64, "odd", user_disk=2 << 20), "not the same disks"),
    ):
        with pytest.raises(BadInputError, match=why):
            office.admin.publish_image(one, office.maker, also=[(other, None)])
    assert office.admin.newest("odd")["version"] == 0


def test_a_version_is_one_thing_to_promote_and_retire(office: Office) -> None:
    office.both("whole", share=0)
    office.catalogue.promote("whole", 1, share=30)
    assert (row(office, "whole")["channels"], row(office, "whole")["architectures"]) == (
        {"stable": 30},
        ["amd64", "arm64"],
    )
    assert office.catalogue.release("whole", 1).archs == ("amd64", "arm64")
    office.catalogue.promote("whole", 1)
    office.admin.publish_image(made(office.folder / "whole2", AMD64, "whole", b"y" * 9000), office.maker)
    office.catalogue.retire("whole", 1)
    assert [each["retired"] for each in office.admin.list_versions("whole")] == [False, True]


def test_a_list_that_forgets_an_architecture_is_not_taken(office: Office) -> None:
    """Such as version 0.1's tool would sign, which knows of no more than one."""
    office.both("kept")
    catalogue = office.catalogue

    def forgetful(each: Release) -> Release:
        return dataclasses.replace(each, arch="", others={}) if each.image == "kept" else each

    with pytest.raises(BadInputError, match="as it is here: for amd64, arm64"):
        catalogue.send([forgetful(each) for each in catalogue.releases])
    assert office.catalogue.release("kept", 1).archs == ("amd64", "arm64")


def test_a_stick_has_all_of_them_or_one(office: Office, tmp_path: Path) -> None:
    office.both("stick")
    remote = office.device("stick", ARM64)
    remote.checkout("work")
    index = remote.index("stick", 1)
    maker, admin = office.maker, office.admin
    export(maker, office.catalogue, admin, "stick", 1, tmp_path / "all")
    assert {path.name for path in (tmp_path / "all").glob("*.index")} == {"stick-1.index", "stick-1.arm64.index"}
    export(maker, office.catalogue, admin, "stick", 1, tmp_path / "amd64", arch="amd64")
    assert {path.name for path in (tmp_path / "amd64").glob("*.index")} == {"stick-1.index"}
    whole = sum(index.ids.values())
    assert bring(index.ids, tmp_path / "all", tmp_path / "c1").sent == whole
    assert 0 < bring(index.ids, tmp_path / "amd64", tmp_path / "c2").sent < whole // 2, "the user's disk alone"
    with pytest.raises(ConflictError, match="for amd64 and arm64 machines; this one is riscv64"):
        export(maker, office.catalogue, admin, "stick", 1, tmp_path / "none", arch="riscv64")
    remote.close()


def test_a_roll_out_passes_by_devices_that_it_has_nothing_for() -> None:
    old = dataclasses.replace(release(1), arch="amd64", others={"arm64": Variant(9, "0" * 64)})
    new = dataclasses.replace(release(2, 99), arch="amd64")
    device = next(name for name in map(str, range(100)) if bucket("office", 2, name) < 99)
    assert offered([old, new], "office", device) == new
    assert offered([old, new], "office", device, arch="amd64") == new
    assert offered([old, new], "office", device, arch="arm64") == old
    everybody = [dataclasses.replace(old, channels={}), dataclasses.replace(new, channels={"stable": 100})]
    assert offered(everybody, "office", device, arch="arm64") == everybody[1], "it is told, not kept on an old one"


def former_reading(file: TargetFile) -> tuple[str, int, int, str, dict[str, int]]:
    """What version 0.1 makes of a target; a list with one that it cannot read is refused as a whole."""
    image, _, version = file.path.partition("/")
    number = int(version) if version.isascii() and version.isdigit() else 0
    assert 0 < number < 1 << 31
    return image, number, file.length, file.hashes["sha256"], dict(file.custom["channels"])


def test_released_devices_read_the_list_and_find_amd64s_index_where_it_was(office: Office) -> None:
    office.both("compat")
    document = office.maker.kept("targets")
    assert document is not None
    files = {file.path: former_reading(file) for file in roles.read(Targets, document).signed.targets.values()}
    now = office.catalogue.release("compat", 1)
    assert files["compat/1"] == ("compat", 1, now.length, now.sha256, {"stable": 100})
    assert now.arch == "amd64"
    # Neither do they ask for anything but the path.
    assert hashlib.sha256(office.admin.index("compat", 1)).hexdigest() == now.sha256


@pytest.mark.parametrize(
    "said",
    [
        {"others": {"arm64": {"length": 5, "sha256": "0" * 64}}},  # and what is the path's own?
        {"arch": "arm64", "others": {"arm64": {"length": 5, "sha256": "0" * 64}}},
        {"arch": "amd64", "others": {"arm64": {"length": 0, "sha256": "0" * 64}}},
        {"arch": "amd64", "others": {"arm64": {"length": 5, "sha256": "0" * 63}}},
        {"arch": "amd64", "others": {"arm64": {"length": 5, "sha256": "0" * 64, "path": "/"}}},
        {"arch": "amd64", "others": {"../..": {"length": 5, "sha256": "0" * 64}}},
        {"arch": "amd64", "others": {f"a{nth}": {"length": 5, "sha256": "0" * 64} for nth in range(9)}},
        {"arch": "amd64", "others": []},
        {"arch": 64},
        {"arch": ["amd64"]},
    ],
)
def test_a_list_whose_architectures_are_malformed_is_not_read(tmp_path: Path, said: dict[str, Any]) -> None:
    company = Company()
    company.publish(release(1))
    device = Machine(tmp_path / "seen", company)
    assert device.look() == (release(1),)
    file = TargetFile(
        1000, {"sha256": "1" * 64}, "office/1", {"custom": {"channels": {}} | json.loads(json.dumps(said))}
    )
    number = company.count("targets")
    company.documents[f"{number}.targets.json"] = roles._signed(
        Targets(number, expires=roles.now() + roles.TARGETS_LIFE, targets={"office/1": file}), [company.targets]
    )
    company.say()
    with pytest.raises(BadInputError):
        device.look()


def test_architectures_that_this_version_does_not_know_are_others_to_know(tmp_path: Path) -> None:
    company = Company()
    known = dataclasses.replace(release(1), arch="amd64", others={"riscv64": Variant(9, "0" * 64)})
    company.publish(known)
    assert Machine(tmp_path / "seen", company).look() == (known,)
