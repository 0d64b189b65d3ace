"""Attacks on the way an image takes to a device, each as a test (python-tuf's habit). The attacker has the network and, where a
test says so, the server with its keys; never the publisher's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile, Targets

from tests.unit.test_chunks_index import INDEX
from twofold.agent.remote import Enrolment, Remote
from twofold.image.sealed import seal
from twofold.model.errors import BadInputError, NotFoundError, RefusedError, TwofoldError, UnreachableError
from twofold.model.release import MAX_INDEX, Release, bucket, offered
from twofold.trust import roles, updater
from twofold.trust.device import identity
from twofold.trust.https import API, Place
from twofold.trust.keys import SigningKey
from twofold.trust.roles import Keys

READING = b"r" * 32
FAR = 2**31 - 1


def release(version: int, share: int = 100, image: str = "office", filling: bytes = b"x") -> Release:
    digest = hashlib.sha256(filling + bytes([version])).hexdigest()
    return Release(image, version, 1000, digest, {"stable": share} if share else {})


def keys(*held: SigningKey, threshold: int = 1) -> Keys:
    return Keys([key.verify_key for key in held], threshold)


class Company:
    """A publisher and its server, as documents by name."""

    def __init__(self) -> None:
        self.root, self.targets, self.server = (SigningKey.make() for _ in range(3))
        self.pinned = roles.make_root(keys(self.root), keys(self.targets), keys(self.server), [self.root])
        self.documents = {"1.root.json": self.pinned}
        self.numbers = {"root": 1, "targets": 0, "snapshot": 0, "timestamp": 0}

    def publish(self, *listed: Release) -> None:
        """The next targets, and what the server says of them."""
        number = self.count("targets")
        self.documents[f"{number}.targets.json"] = roles.make_targets(number, listed, [self.targets])
        self.say()

    def say(self, targets: int | None = None, life: timedelta = roles.TIMESTAMP_LIFE) -> None:
        snapshot, timestamp = self.count("snapshot"), self.count("timestamp")
        newest = self.numbers["targets"] if targets is None else targets
        self.documents[f"{snapshot}.snapshot.json"] = roles.make_snapshot(snapshot, newest, self.server)
        self.documents["timestamp.json"] = roles.make_timestamp(timestamp, snapshot, self.server, life)

    def count(self, role: str) -> int:
        self.numbers[role] += 1
        return self.numbers[role]

    def rotate(self, *signers: SigningKey, server: SigningKey | None = None) -> None:
        """The next root, by default with a new key for the server."""
        self.server = server or SigningKey.make()
        former = self.documents[f"{self.numbers['root']}.root.json"]
        number = self.count("root")
        self.documents[f"{number}.root.json"] = roles.next_root(
            former, keys(self.root), keys(self.targets), keys(self.server), signers or [self.root]
        )

    def metadata(self, name: str, limit: int) -> bytes:
        if name not in self.documents:
            raise NotFoundError(f"There is no {name}.")
        return self.documents[name]


class Machine:
    """A device that has pinned a company's root."""

    def __init__(self, folder: Path, company: Company) -> None:
        self.folder, self.company, self.root = folder, company, company.pinned
        folder.mkdir(mode=0o700, exist_ok=True)

    def look(self) -> tuple[Release, ...]:
        def get(name: str, limit: int) -> bytes | None:
            return self.company.documents.get(name)

        return updater.update(self.folder, self.root, get)


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


# Through the child process, and with the index behind the list.


class Crooked(Remote):
    """A device whose server is played by the test."""

    def __init__(self, folder: Path, company: Company) -> None:  # no connection is made
        who = identity(folder / "state")
        place = Enrolment(
            Place("127.0.0.1", 1), b"", "ACME", "ada", "Laptop", company.server.verify_key, company.pinned, READING
        )
        self.enrolment, self._identity, self._seen, self._one = place, who, folder / "seen", threading.Lock()
        self.company, self.sealed = company, b""
        self.cut: Callable[[], bytes] | None = None

    def _send(self, method: str, what: str, body: bytes, limit: int) -> bytes:
        if self.cut is not None:
            return self.cut()
        if what.startswith("device/roles/"):
            return self.company.metadata(what.removeprefix("device/roles/"), limit)
        assert what.startswith("device/images/"), f"{API}/{what}"
        if len(self.sealed) > limit:
            raise BadInputError(f"The server's answer is longer than {limit} bytes.")
        return self.sealed


def published(company: Company, image: str = "office", version: int = 3) -> tuple[Release, bytes]:
    manifest = dataclasses.replace(INDEX.manifest, image=image, version=version)
    sealed = seal(dataclasses.replace(INDEX, manifest=manifest), READING)
    return Release(image, version, len(sealed), hashlib.sha256(sealed).hexdigest(), {"stable": 100}), sealed


@pytest.fixture
def remote(company: Company, tmp_path: Path) -> Iterator[Crooked]:
    tmp_path.chmod(0o700)
    mine, sealed = published(company)
    company.publish(mine)
    made = Crooked(tmp_path, company)
    made.sealed = sealed
    assert made.index("office", 3) == INDEX
    yield made


def test_arbitrary_software(remote: Crooked) -> None:
    for bad in (seal(INDEX, READING), remote.sealed[:-1] + b"\0", remote.sealed[:-1], b""):
        remote.sealed = bad  # the first is even sealed with the right key
        with pytest.raises(RefusedError, match="not version 3"):
            remote.index("office", 3)


def test_endless_index(remote: Crooked) -> None:
    remote.sealed += bytes(1)
    with pytest.raises(BadInputError, match="longer"):
        remote.index("office", 3)
    assert len(remote.sealed) < MAX_INDEX


def test_targets_swapped_between_images(remote: Crooked, company: Company) -> None:
    (office, _), (other, sealed) = published(company), published(company, "other")
    company.publish(office, other)
    remote.sealed = sealed
    with pytest.raises(RefusedError):
        remote.index("office", 3)
    # Even a publisher who is tricked into signing one image's index as another's: it does not open.
    company.publish(dataclasses.replace(other, image="office", version=4), other)
    with pytest.raises(RefusedError, match="does not open"):
        remote.index("office", 4)


def test_a_version_that_is_on_no_channel_is_not_begun_with(remote: Crooked, company: Company) -> None:
    (third, remote.sealed), (fourth, _) = published(company), published(company, version=4)
    company.publish(dataclasses.replace(third, channels={}), fourth)
    with pytest.raises(RefusedError, match="does not give out version 3"):
        remote.index("office", 3)
    assert remote.index("office", 3, held=True) == INDEX, "a workspace that stands on it can be repaired"
    company.publish(fourth)
    with pytest.raises(RefusedError, match="does not give out"):
        remote.index("office", 3, held=True)


def test_a_server_that_goes_away_is_said_to_be_away(remote: Crooked) -> None:
    def away() -> bytes:
        raise UnreachableError("The server cannot be reached.")

    remote.cut = away
    with pytest.raises(UnreachableError, match="cannot be reached"):
        remote.releases()
    remote.cut = None
    assert remote.releases()


def test_a_record_of_what_was_seen_that_is_damaged_is_never_begun_anew(remote: Crooked, tmp_path: Path) -> None:
    (tmp_path / "seen" / "seen.json").write_bytes(b"{}")
    with pytest.raises(TwofoldError, match="cannot be read"):
        remote.releases()


def test_the_agent_does_not_carry_python_tuf(remote: Crooked) -> None:
    """The child does; this process has loaded it only because these tests do."""
    import subprocess
    import sys

    code = (
        "import sys, twofold.agent.__main__, twofold.agent.remote, twofold.trust.updater;"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    env = {"PYTHONPATH": str(Path(updater.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert not {"tuf", "securesystemslib", "urllib3"} & set(done.stdout.split())


def test_shares_draw_devices_and_a_halt_keeps_them_where_they_are() -> None:
    listed = (release(1), release(2, 25))
    devices = [hashlib.sha256(bytes([number, 1])).hexdigest() for number in range(256)]
    chosen = {device for device in devices if offered(listed, "office", device) == release(2, 25)}
    assert 40 <= len(chosen) <= 90, "a quarter, about"
    assert all(bucket("office", 2, device) < 25 for device in chosen)
    wider = (release(1), release(2, 60))
    assert chosen <= {device for device in devices if offered(wider, "office", device) == release(2, 60)}
    assert all(offered(listed, "office", device, halted=[2]) == release(1) for device in devices)
    assert offered((release(2, 25),), "office", sorted(set(devices) - chosen)[0]) is None
    assert offered(listed, "other", devices[0]) is None
