"""Attacks on the index behind the list, through the child process that reads the list; and who is in a roll-out."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.unit.roles_kit import READING, Company, release
from tests.unit.test_chunks_index import INDEX
from twofold.agent.enrolment import Enrolment
from twofold.agent.remote import Remote
from twofold.image.sealed import seal
from twofold.model.errors import BadInputError, ConflictError, RefusedError, TwofoldError, UnreachableError
from twofold.model.image import Arch
from twofold.model.release import MAX_INDEX, Release, Variant, bucket, offered
from twofold.trust import updater
from twofold.trust.device import identity
from twofold.trust.https import API, Place


@pytest.fixture
def company() -> Company:
    made = Company()
    made.publish(release(1))
    return made


class Crooked(Remote):
    """A device whose server is played by the test."""

    def __init__(self, folder: Path, company: Company) -> None:  # no connection is made
        who = identity(folder / "state")
        place = Enrolment(
            Place("127.0.0.1", 1), b"", "ACME", "ada", "Laptop", company.server.verify_key, company.pinned, READING
        )
        self.enrolment, self._identity, self._seen, self._one = place, who, folder / "seen", threading.Lock()
        self._listed = 0.0, ()
        self.company, self.sealed, self.arch = company, b"", Arch.AMD64
        self.cut: Callable[[], bytes] | None = None

    def send(
        self,
        method: str,
        what: str,
        body: bytes,
        limit: int,
        headers: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> bytes:
        if self.cut is not None:
            return self.cut()
        if what.startswith("device/roles/"):
            return self.company.metadata(what.removeprefix("device/roles/"), limit)
        assert what.startswith("device/images/"), f"{API}/{what}"
        if len(self.sealed) > limit:
            raise BadInputError(f"The server's answer is longer than {limit} bytes.")
        return self.sealed

    _send = send


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


def test_another_architecture_than_this_machines(remote: Crooked, company: Company) -> None:
    (third, amd64), manifest = published(company), dataclasses.replace(INDEX.manifest, arch=Arch.ARM64)
    arm64 = seal(dataclasses.replace(INDEX, manifest=manifest), READING)
    both = dataclasses.replace(
        third, arch="amd64", others={"arm64": Variant(len(arm64), hashlib.sha256(arm64).hexdigest())}
    )
    company.publish(both)
    remote.sealed = amd64
    assert remote.index("office", 3) == INDEX
    with pytest.raises(RefusedError, match="for arm64"):
        remote.index("office", 3, Arch.ARM64)
    remote.sealed = arm64
    assert remote.index("office", 3, Arch.ARM64).manifest.arch is Arch.ARM64
    with pytest.raises(RefusedError, match="for amd64"):
        remote.index("office", 3)
    # Whatever a list says that an index is for, in the end the index says it.
    company.publish(dataclasses.replace(both, others={"arm64": Variant(both.length, both.sha256)}))
    remote.sealed = amd64
    with pytest.raises(ConflictError, match="for amd64 machines; this one is arm64"):
        remote.index("office", 3, Arch.ARM64)
    company.publish(third)  # as it was published before there were several
    assert remote.index("office", 3) == INDEX
    with pytest.raises(ConflictError, match="for amd64 machines; this one is arm64"):
        remote.index("office", 3, Arch.ARM64)


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
