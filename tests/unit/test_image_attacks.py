"""Attacks on the way an image takes to a device, each as a test (python-tuf's habit). The attacker has the network and, where a
test says so, the server with its keys; never the publisher's."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile, Targets

from tests.unit.roles_kit import FAR, Company, Machine, keys, release
from twofold.model.errors import BadInputError, RefusedError
from twofold.model.release import Release
from twofold.trust import roles
from twofold.trust.keys import SigningKey


@pytest.fixture
def company() -> Company:
    made = Company()
    made.publish(release(1))
    return made


@pytest.fixture
def device(company: Company, tmp_path: Path) -> Machine:
    found = Machine(tmp_path / "seen", company)
    assert found.look() == (release(1),)
    return found


def refused(device: Machine, why: str) -> None:
    """Not taken, and what was believed before is believed after."""
    before = (device.folder / "seen.json").read_bytes()
    with pytest.raises(RefusedError, match=why):
        device.look()
    assert (device.folder / "seen.json").read_bytes() == before


def test_the_newest_list_is_taken_and_going_back_is_a_newer_list(company: Company, device: Machine) -> None:
    company.publish(release(1, 0), release(2))
    assert device.look() == (release(1, 0), release(2))
    company.publish(release(1), release(2, 0))
    assert device.look() == (release(1), release(2, 0)), "signed by the publisher, an older image is a newer wish"


def test_rollback_of_the_timestamp(company: Company, device: Machine) -> None:
    old = company.documents["timestamp.json"]
    company.publish(release(2))
    device.look()
    company.documents["timestamp.json"] = old
    refused(device, "BadVersionNumber")


def test_rollback_of_the_targets_by_a_stolen_server(company: Company, device: Machine) -> None:
    company.publish(release(1, 0), release(2))
    device.look()
    company.say(targets=1)  # its own keys, honest numbers, the list of before
    refused(device, "BadVersionNumber")


@pytest.mark.parametrize("lost", ["timestamp.json", "snapshot.json", "targets.json"])
def test_rollback_after_a_power_cut_emptied_a_file(company: Company, device: Machine, lost: str) -> None:
    company.publish(release(1, 0), release(2))
    device.look()
    for name in {lost, "snapshot.json"}:
        (device.folder / name).write_bytes(b"")
    company.say(targets=1)
    refused(device, "targets|BadVersionNumber")


def test_rollback_of_the_root(company: Company, device: Machine) -> None:
    company.rotate()
    company.say()
    device.look()
    del company.documents["2.root.json"]
    for path in (device.folder / "root_history").glob("2.*"):
        path.unlink()
    with pytest.raises(RefusedError):
        device.look()


def test_freeze_ends_when_the_timestamp_does(company: Company, device: Machine) -> None:
    company.say(life=timedelta(seconds=-1))
    before = (device.folder / "seen.json").read_bytes()
    with pytest.raises(RefusedError, match="too old"):
        device.look()
    assert (device.folder / "seen.json").read_bytes() == before
    company.say()
    assert device.look() == (release(1),)


def test_expired_targets_are_not_believed(company: Company, device: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "TARGETS_LIFE", timedelta(seconds=-1))
    company.publish(release(2))
    refused(device, "too old")


def test_mix_and_match(company: Company, device: Machine) -> None:
    company.publish(release(2))
    company.documents["2.targets.json"] = company.documents["1.targets.json"]
    refused(device, "Expected targets v2")
    company.publish(release(3))
    company.documents["3.snapshot.json"] = company.documents["2.snapshot.json"]
    refused(device, "snapshot|BadVersionNumber")


def test_endless_data(company: Company, device: Machine) -> None:
    company.say()
    for name in ("timestamp.json", "2.snapshot.json"):
        good = company.documents[name]
        company.documents[name] = good + b" " * roles.MAX_METADATA
        with pytest.raises(RefusedError, match="no end"):
            device.look()
        company.documents[name] = good
    assert device.look() == (release(1),)


def test_endless_roots(company: Company, device: Machine) -> None:
    class Endless(dict[str, bytes]):
        asked = 0

        def get(self, name: str, default: bytes | None = None) -> bytes | None:  # type: ignore[override]
            self.asked += 1
            return company.pinned if name.endswith(".root.json") else super().get(name, default)

    company.documents = Endless(company.documents)
    refused(device, "Expected root version 2")
    assert company.documents.asked < 300


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_wrong_keys(company: Company, device: Machine, role: str) -> None:
    stranger = SigningKey.make()
    if role == "targets":
        company.targets = stranger
    else:
        company.server = stranger
    company.publish(release(2))
    refused(device, "UnsignedMetadata|was signed by 0/1 keys")


def test_a_stolen_server_names_an_image_of_its_own(company: Company, device: Machine) -> None:
    company.targets = company.server
    company.publish(release(2, filling=b"evil"))
    refused(device, "was signed by 0/1 keys")


def test_a_document_of_another_role_does_not_stand_in(company: Company, device: Machine) -> None:
    company.publish(release(2))
    company.documents["2.targets.json"] = company.documents["2.snapshot.json"]
    refused(device, "Expected 'targets'")


def test_a_changed_list_under_a_good_signature(company: Company, device: Machine) -> None:
    company.publish(release(2))
    body = json.loads(company.documents["2.targets.json"])
    body["signed"]["targets"]["office/2"]["hashes"]["sha256"] = "0" * 64
    company.documents["2.targets.json"] = json.dumps(body).encode()
    refused(device, "was signed by 0/1 keys")


def test_threshold_counts_keys_and_not_signatures(tmp_path: Path) -> None:
    company = Company()
    first, second, third = (SigningKey.make() for _ in range(3))
    company.pinned = roles.make_root(
        keys(company.root), keys(first, second, third, threshold=2), keys(company.server), [company.root]
    )
    company.documents["1.root.json"] = company.pinned
    device = Machine(tmp_path / "seen", company)

    def offer(*signers: SigningKey) -> tuple[Release, ...]:
        number = company.count("targets")
        company.documents[f"{number}.targets.json"] = roles.make_targets(number, [release(1)], signers)
        company.say()
        return device.look()

    assert offer(first, third) == (release(1),)
    for signers in ((first,), (first, SigningKey.make()), (first, company.server)):
        with pytest.raises(RefusedError, match="was signed by 1/2 keys"):
            offer(*signers)
    twice = json.loads(roles.make_targets(company.count("targets"), [release(1)], [first]))
    twice["signatures"].append(dict(twice["signatures"][0], keyid="f" * 64))
    company.documents[f"{company.numbers['targets']}.targets.json"] = json.dumps(twice).encode()
    company.say()
    with pytest.raises(RefusedError, match="was signed by 1/2 keys"):
        device.look()
    assert offer(second, third) == (release(1),)


def test_a_root_needs_the_former_keys_and_its_own(company: Company, device: Machine) -> None:
    thief = SigningKey.make()
    honest = company.root
    company.root = thief
    with pytest.raises(RefusedError):
        roles.check_root(
            roles.next_root(company.pinned, keys(thief), keys(thief), keys(thief), [thief]), company.pinned
        )
    company.rotate(thief)
    refused(device, "was signed by 0/1 keys")
    company.numbers["root"] = 1
    company.rotate(honest)  # the former keys alone: nobody shows that the new ones exist
    refused(device, "was signed by 0/1 keys")
    company.numbers["root"] = 1
    company.rotate(honest, thief)
    company.say()
    assert device.look() == (release(1),)


def test_a_device_follows_many_roots(company: Company, device: Machine) -> None:
    for _ in range(5):
        former = company.root
        company.root = SigningKey.make()
        company.rotate(former, company.root)
    company.publish(release(2))
    assert device.look() == (release(2),)
    del company.documents["3.root.json"]
    assert device.look() == (release(2),), "what it followed it keeps"


def test_a_server_that_was_replaced_is_not_believed(company: Company, device: Machine) -> None:
    old = company.server
    company.rotate()
    company.server, new = old, company.server
    company.say()
    refused(device, "was signed by 0/1 keys")
    company.server = new
    company.say()
    assert device.look() == (release(1),)


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_recovery_from_a_thief_who_counted_to_the_end(company: Company, device: Machine, role: str) -> None:
    former = dict(company.numbers)
    company.numbers[role] = FAR - 1
    company.say()
    assert device.look() == (release(1),), "nothing tells a thief's count from an honest one"
    company.numbers = former | {"timestamp": former["timestamp"] + (role == "snapshot")}
    company.say()
    refused(device, "BadVersionNumber")
    company.rotate()  # new keys begin a new count
    company.publish(release(2))
    assert device.look() == (release(2),)


def test_new_server_keys_do_not_bring_old_targets_back(company: Company, device: Machine) -> None:
    company.publish(release(1, 0), release(2))
    device.look()
    company.rotate()
    company.say(targets=1)
    refused(device, "targets went back from 2 to 1")


def test_targets_that_say_too_much_are_refused_whole(company: Company, device: Machine) -> None:
    with pytest.raises(BadInputError, match="Two versions"):
        roles.make_targets(2, [release(1), release(2)], [company.targets])
    body = Targets(2, expires=roles.now() + timedelta(days=1))
    for path in ("office", "../1", "office/x", "office/0", "office/1/2"):
        body.targets = {path: TargetFile(5, {"sha256": "0" * 64}, path, {"custom": {"channels": {}}})}
        with pytest.raises(BadInputError):
            roles.releases(body.targets.values())
