"""Versions, channels and roll-outs through the real server; and images on a stick."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.server_kit import running
from tests.unit.test_publish_fetch import SYSTEM, built
from twofold.agent.enrolment import enrol
from twofold.agent.remote import Remote
from twofold.image.catalogue import Catalogue
from twofold.image.export import export
from twofold.image.fetch import fetch, open_part
from twofold.image.stick import bring
from twofold.model.errors import BadInputError, ConflictError, NotFoundError, RefusedError
from twofold.model.release import bucket
from twofold.server.client import Admin
from twofold.trust.device import identity
from twofold.trust.keys import SigningKey
from twofold.trust.publisher import Publisher, publisher
from twofold.trust.roles import make_timestamp

SECOND = SYSTEM[: 1 << 20] + b"new" * 2730 + SYSTEM[(1 << 20) + 8190 :]


@dataclasses.dataclass(frozen=True)
class Office:
    admin: Admin
    maker: Publisher
    folder: Path

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.maker, self.admin)

    def device(self, user: str) -> Remote:
        who = identity(self.folder / f"state-{user}")
        return Remote(enrol(self.admin.invite_device(user), user, who, bytes(32)), who, self.folder / f"seen-{user}")


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    folder.chmod(0o700)
    with running(folder) as (admin, _):
        maker = publisher(folder / "publisher")
        admin.add_publisher(maker)
        admin.publish_image(built(folder / "one"), maker)
        for number in range(6):
            admin.create_user(f"user{number}", "a long enough password")
            admin.add_grant(f"user{number}", "office", "work", "Work", "green")
        yield Office(admin, maker, folder)


def given(remote: Remote, workspace: str = "work") -> int:
    """The version that a device would get, fetched and verified."""
    signed = remote.checkout(workspace)
    lease = signed.lease
    try:
        found = remote.index(lease.image, lease.image_version, channel=signed.channel)
        assert found.manifest.version == lease.image_version
        return lease.image_version
    finally:
        remote.checkin(workspace)


def test_a_new_version_goes_to_a_share_is_halted_promoted_and_taken_back(office: Office) -> None:
    second = office.admin.publish_image(built(office.folder / "two", SECOND), office.maker, share=0)
    assert second.version == 2
    remotes = [office.device(f"user{number}") for number in range(6)]
    ids = [remote.enrolment.user for remote in remotes]
    assert {given(remote) for remote in remotes} == {1}, "published is not given out"
    draws = sorted(bucket("office", 2, identity(office.folder / f"state-{user}").device) for user in ids)
    share = draws[3]  # three of six are below it
    office.catalogue.promote("office", 2, share=share)
    with_new = [remote for remote in remotes if given(remote) == 2]
    assert len(with_new) == len([draw for draw in draws if draw < share])
    for remote in with_new[:2]:
        remote.checkout("work")
        remote.started("office", 2, good=False)
    (now,) = [row for row in office.admin.list_versions("office") if row["version"] == 2]
    assert now["failed"] == 2
    assert "could not start" in now["why"]
    assert now["halted"]
    for remote in with_new[:2]:
        remote.checkin("work")
    assert {given(remote) for remote in remotes} == {1}, "nobody begins with a version that fails"
    office.admin.halt("office", 2, halted=False)
    assert {given(remote) for remote in with_new} == {2}
    office.catalogue.promote("office", 2)
    assert {given(remote) for remote in remotes} == {2}
    assert [row["channels"] for row in office.admin.list_versions("office")] == [{"stable": 100}, {}]
    office.catalogue.promote("office", 1)
    assert {given(remote) for remote in remotes} == {1}, "going back is a newer list"
    for remote in remotes:
        remote.close()


def test_a_list_just_looked_at_will_do_but_not_to_say_no(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.catalogue.promote("office", 1)
    remote, metadata = office.device("user4"), Remote.metadata
    asked: list[str] = []

    def counted(self: Remote, name: str, limit: int) -> bytes:
        asked.append(name)
        return metadata(self, name, limit)

    monkeypatch.setattr(Remote, "metadata", counted)
    before = remote.releases()
    assert "timestamp.json" in asked
    asked.clear()
    assert remote.releases(age=60) == before and not asked
    office.catalogue.promote("office", 2)
    signed = remote.checkout("work")
    assert signed.lease.image_version == 2
    found = remote.index("office", 2, channel=signed.channel, age=60)
    assert found.manifest.version == 2, "promoted since the list was looked at"
    assert asked.count("timestamp.json") == 1
    remote.releases()
    assert asked.count("timestamp.json") == 2, "whoever names no age has it looked at again"
    remote.checkin("work")
    office.catalogue.promote("office", 1)
    remote.close()


def test_a_start_that_no_lease_stands_behind_counts_for_nothing(office: Office) -> None:
    remote = office.device("user5")
    with pytest.raises(NotFoundError):
        remote.started("office", 1, good=False)
    remote.close()


def test_a_version_that_is_given_out_is_not_retired_and_a_retired_one_is_gone(office: Office) -> None:
    office.admin.publish_image(built(office.folder / "a", image="other"), office.maker)
    office.admin.publish_image(built(office.folder / "b", SECOND, image="other"), office.maker)
    with pytest.raises(ConflictError, match="is on channel stable"):
        office.catalogue.retire("other", 2)
    office.catalogue.retire("other", 1)
    with pytest.raises(NotFoundError):
        office.catalogue.promote("other", 1)
    assert [row["retired"] for row in office.admin.list_versions("other")] == [False, True]
    assert {release.path for release in office.catalogue.releases} >= {"other/2", "office/1"}


def test_a_pilot_group_goes_first(office: Office) -> None:
    office.catalogue.promote("office", 1)
    rows = office.admin.list_versions("office")
    second = (
        2 if len(rows) > 1 else office.admin.publish_image(built(office.folder / "p", SECOND), office.maker).version
    )
    office.catalogue.promote("office", 1)
    office.admin.create_group("pilot")
    for user in ("user0", "user1"):
        office.admin.join_group("pilot", user)
    made = office.admin.grant_group("pilot", "office", "try", "Try", "purple", channel="testing")
    assert made["reached"] == 2
    pilot, other = office.device("user0"), office.device("user3")
    assert given(pilot, "try") == 1, "nothing is on that channel: stable stands in"
    with pytest.raises(NotFoundError):
        other.checkout("try")
    office.catalogue.promote("office", second, "testing")
    assert (given(pilot, "try"), given(pilot), given(other)) == (second, 1, 1)
    (offer,) = [grant for grant in pilot.grants() if grant.workspace == "try"]
    assert offer.version == second
    old = pilot.call("POST", "device/checkout", {"workspace": "try", "speaks": ["generations-1"]})
    assert pilot.lease(old["lease"]).lease.image_version == 1, "an older device knows of no channels"
    pilot.checkin("try")
    office.admin.change_grant(made["grant"], "stable")
    assert given(pilot, "try") == 1
    office.admin.change_grant(made["grant"], "testing")
    office.admin.halt("office", second)
    assert given(pilot, "try") == 1, "stable stands in for what is halted, though it was for everybody there"
    office.admin.halt("office", second, halted=False)
    assert given(pilot, "try") == second
    office.catalogue.close("office", "testing")
    assert given(pilot, "try") == 1
    with pytest.raises(NotFoundError):
        office.catalogue.close("office", "testing")
    with pytest.raises(ConflictError, match="falls back on"):
        office.catalogue.close("office", "stable")
    office.admin.delete_group("pilot")
    pilot.close()
    other.close()


def test_a_server_gives_nobody_what_is_on_another_channel(office: Office) -> None:
    """A device believes the server which channel it is on, and the publisher what that channel has."""
    office.catalogue.promote("office", 1)
    office.catalogue.promote("office", 2, "testing")
    remote = office.device("user4")
    signed = remote.checkout("work")
    assert (signed.lease.image_version, signed.channel) == (1, "stable")
    for channel in ("stable", "other"):
        with pytest.raises(RefusedError, match="does not give out"):
            remote.index("office", 2, channel=channel)
        assert remote.index("office", 1, channel=channel).manifest.version == 1
    remote.checkin("work")
    office.catalogue.close("office", "testing")
    remote.close()


def test_a_publisher_signs_on_top_of_nothing_old(office: Office, tmp_path: Path) -> None:
    mine = office.maker.kept("targets")
    assert mine is not None
    newer = office.catalogue.signed(office.catalogue.releases)
    office.maker.keep("targets", newer)  # the server was put back to before it
    try:
        with pytest.raises(RefusedError, match="this publisher signed number"):
            _ = office.catalogue
    finally:
        office.maker.keep("targets", mine)
    with pytest.raises(RefusedError, match="did not make"):
        Catalogue(publisher(tmp_path / "stranger"), office.admin)
    with pytest.raises(ConflictError, match="cannot follow"):
        office.admin.set_targets(mine)
    with pytest.raises(BadInputError):
        office.admin.set_targets(b"{}")


def test_a_server_gets_new_keys_and_devices_follow(office: Office) -> None:
    remote = office.device("user2")
    assert given(remote)
    thief = (office.folder / "server" / "roles.pem").read_bytes()
    assert office.catalogue.rotate() == 2
    assert given(remote)
    assert office.catalogue.rotate() == 3
    office.catalogue.promote("office", 1)
    assert given(remote)
    assert len(list((office.folder / "server").glob("roles*.pem"))) == 3
    assert json.loads(remote.metadata("2.root.json", 1 << 20))["signed"]["version"] == 2
    # What the old key says is believed no more.
    stolen = office.folder / "stolen.pem"
    stolen.write_bytes(thief)
    honest, forged = remote.metadata, make_timestamp(10**6, 1, SigningKey.load(stolen))
    remote.metadata = lambda name, limit: forged if name == "timestamp.json" else honest(name, limit)  # type: ignore[method-assign]
    with pytest.raises(RefusedError, match="was signed by 0/1 keys"):
        remote.releases()
    remote.close()


def test_an_image_travels_on_a_stick(office: Office, tmp_path: Path) -> None:
    stick, cache = tmp_path / "stick", tmp_path / "cache"
    office.catalogue.promote("office", 1)
    done = export(office.maker, office.catalogue, office.admin, "office", 1, stick)
    assert done.sent == done.wanted > 1_000_000
    assert export(office.maker, office.catalogue, office.admin, "office", 1, stick).sent == 0
    names = {path.name for path in stick.iterdir()}
    assert names == {"chunks", "office-1.index", "office-1.root.json", "office-1.targets.json"}
    plain = b"".join(path.read_bytes() for path in stick.rglob("*") if path.is_file())
    assert b"words words" not in plain
    assert json.loads((stick / "office-1.targets.json").read_bytes())["signed"]["_type"] == "targets"
    remote = office.device("user4")
    lease = remote.checkout("work").lease
    index = remote.index("office", lease.image_version)
    brought = bring(index.ids, stick, cache)
    assert brought.sent == brought.wanted
    assert fetch(index.ids, remote, cache).sent == 0, "nothing comes over the wire"
    with open_part(index, "system", cache) as part:
        assert part.read() == SYSTEM
    assert bring(index.ids, stick, cache).sent == 0
    remote.checkin("work")
    remote.close()


def test_what_a_stick_has_damaged_comes_from_the_server(office: Office, tmp_path: Path) -> None:
    stick, cache = tmp_path / "stick", tmp_path / "cache"
    office.catalogue.promote("office", 1)
    export(office.maker, office.catalogue, office.admin, "office", 1, stick)
    files = sorted((stick / "chunks").glob("??/*"))
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    files[1].unlink()
    files[2].unlink()
    files[2].symlink_to("/etc/passwd")
    files[3].unlink()
    os.mkfifo(files[3])
    files[4].write_bytes(bytes(1 << 20))
    remote = office.device("user3")
    lease = remote.checkout("work").lease
    index = remote.index("office", lease.image_version)
    bad = sum(index.ids[bytes.fromhex(file.name)] for file in files[:5])
    brought = bring(index.ids, stick, cache)
    assert brought.sent == brought.wanted - bad
    assert fetch(index.ids, remote, cache).sent == bad
    remote.checkin("work")
    remote.close()


def test_a_folder_that_is_no_stick(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="holds no exported image"):
        bring({}, tmp_path, tmp_path / "cache")
