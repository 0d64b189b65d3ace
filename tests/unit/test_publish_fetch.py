"""Publish and check out through a real server over TLS: bytes before and after dedupe, resumed, damaged, healed, faked."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import random
import ssl
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.server_kit import ADMIN, PASSWORD, free_port, running
from twofold.agent.enrolment import Enrolment, enrol
from twofold.agent.remote import Remote
from twofold.image.fetch import Arrivals, Fetched, batched, fetch, open_part
from twofold.image.publish import publish
from twofold.model.errors import (
    BadInputError,
    ConflictError,
    DamagedError,
    NoRoomError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from twofold.model.image import Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.model.policy import Policy
from twofold.model.progress import silent
from twofold.server.client import Admin
from twofold.server.run import serve
from twofold.trust import https
from twofold.trust.device import Identity, identity
from twofold.trust.publisher import Publisher, publisher
from twofold.trust.roles import Keys, make_root

DICE = random.Random(5)
SYSTEM = DICE.randbytes(3 << 20) + bytes(4 << 20) + b"words " * 500_000


@dataclasses.dataclass(frozen=True)
class Folder:
    manifest: ImageVersion
    folder: Path

    def path(self, part: str) -> Path:
        return self.folder / part


def built(folder: Path, system: bytes = SYSTEM, image: str = "office") -> Folder:
    folder.mkdir(exist_ok=True)
    parts = {"kernel": b"kernel " * 1000, "system": system}
    for name, data in parts.items():
        (folder / name).write_bytes(data)
    rows = tuple(Part(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in parts.items())
    return Folder(ImageVersion(image, 0, Arch.AMD64, Firmware.DIRECT, SystemMode.STATELESS, rows), folder)


@dataclasses.dataclass(frozen=True)
class World:
    admin: Admin
    publisher: Publisher
    identity: Identity
    enrolment: Enrolment
    log: Path
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    folder.chmod(0o700)
    with running(folder) as (admin, log):
        company = publisher(folder / "publisher")
        admin.add_publisher(company)
        admin.create_user("ada", "ada ada ada ada")
        first = admin.publish_image(built(folder / "image"), company)
        assert (first.version, first.fresh, first.sent) == (1, True, first.stored)
        admin.add_grant("ada", "office", "work", "ACME Work", "green", Policy(clipboard_to_work=True))
        who = identity(folder / "state")
        yield World(admin, company, who, enrol(admin.invite_device("ada"), "Ada's laptop", who, bytes(32)), log, folder)


@pytest.fixture
def remote(world: World, tmp_path: Path) -> Iterator[Remote]:
    client = Remote(world.enrolment, world.identity, tmp_path / "seen")
    yield client
    client.checkin("work")
    client.close()


class Two(Admin):
    """Takes no batch before another is on its way; `breaks` says which one a server refuses that dies in the middle."""

    def __init__(self, like: Admin, breaks: int) -> None:
        super().__init__(like.place.origin, like.pin, like.token)
        self._both, self._breaks, self.taken = threading.Barrier(2), breaks, 0
        self._lock = threading.Lock()

    def upload(self, frames: bytes) -> None:
        try:
            self._both.wait(20)
        except threading.BrokenBarrierError as off:
            raise UnreachableError("The server went away.") from off
        with self._lock:
            self.taken += 1
            mine = self.taken
        if mine == self._breaks:
            self._both.abort()
            raise UnreachableError("The server went away.")
        super().upload(frames)


def test_two_batches_are_on_their_way_and_one_that_fails_publishes_nothing(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twofold.image.publish._BATCH", 2 << 20)
    image = built(tmp_path / "image", random.Random(6).randbytes(9 << 20), "two")
    broken = Two(world.admin, breaks=3)
    with contextlib.closing(broken), pytest.raises(UnreachableError):
        publish([(image, None)], world.publisher, broken)
    assert broken.taken >= 3, "no two were on their way together"
    assert world.admin.newest("two")["version"] == 0
    steps: list[int] = []
    done = publish([(image, None)], world.publisher, world.admin, lambda _, at, total: steps.append(at))
    assert (done.version, done.fresh) == (1, True)
    assert 0 < done.sent < done.stored
    assert steps == sorted(steps)
    assert steps[-1] == done.size


class Paced:
    """A source that gives out a batch for each `go`."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._go = remote, threading.Semaphore(0)
        self.asked: list[bytes] = []

    def go(self, batches: int) -> None:
        self._go.release(batches)

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        self._go.acquire()
        self.asked += ids
        return self._remote.chunks(ids)


@pytest.mark.parametrize("fails", [False, True])
def test_a_part_is_read_while_it_comes(
    world: World, remote: Remote, tmp_path: Path, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twofold.image.fetch._STREAMS", 1)
    lease = remote.checkout("work").lease
    index = remote.index(lease.image, lease.image_version)
    ids = {row.id: row.stored for row in index.chunks["system"]}
    source, arrivals = Paced(remote), Arrivals(ids)

    def progress(step: str, done: int, total: int) -> None:
        if fails and done:
            raise NoRoomError("The disk is full.")

    with ThreadPoolExecutor(1) as pool, open_part(index, "system", tmp_path, source, arrivals) as part:
        coming = pool.submit(fetch, ids, source, tmp_path, progress, arrivals)
        source.go(1000)
        if fails:
            with pytest.raises(NoRoomError):
                part.read()
            with pytest.raises(NoRoomError):
                coming.result()
            assert len(source.asked) < len(ids), "what the fetch gave up was brought by the reader"
        else:
            assert part.read() == SYSTEM
            assert coming.result().sent == sum(ids.values())
            assert sorted(source.asked) == sorted(ids), "a chunk that was on its way was asked for twice"


def test_a_reader_has_what_came_before_the_rest_is_there(world: World, remote: Remote, tmp_path: Path) -> None:
    lease = remote.checkout("work").lease
    index = remote.index(lease.image, lease.image_version)
    ids = {row.id: row.stored for name in ("kernel", "system") for row in index.chunks[name]}
    source, arrivals = Paced(remote), Arrivals(ids)
    small = {row.id: row.stored for row in index.chunks["kernel"]}
    source.go(1)
    fetch(small, source, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(fetch, ids, source, tmp_path, silent, arrivals)
        with open_part(index, "kernel", tmp_path, None, arrivals) as part:
            assert part.read() == b"kernel " * 1000
        assert not coming.done() and not arrivals.whole
        source.go(1000)
        coming.result()
        assert arrivals.whole


def test_an_image_is_published_and_checked_out_byte_for_byte(world: World, remote: Remote, tmp_path: Path) -> None:
    (offered,) = remote.grants()
    assert (offered.workspace, offered.title, offered.colour, offered.image) == ("work", "ACME Work", "green", "office")
    lease = remote.checkout("work").lease
    assert lease.policy.clipboard_to_work
    assert not lease.policy.clipboard_from_work
    index = remote.index(lease.image, lease.image_version)
    steps: list[tuple[int, int]] = []

    def listen(step: str, done: int, total: int) -> None:
        assert step == "fetch"
        steps.append((done, total))

    got = fetch(index.ids, remote, tmp_path / "cache", listen)
    assert got.sent == got.wanted == offered.bytes
    assert steps[0][0] == 0
    assert steps[-1] == (got.wanted, got.wanted)
    assert steps == sorted(steps)
    with open_part(index, "system", tmp_path / "cache") as part:
        assert part.read() == SYSTEM
    assert fetch(index.ids, remote, tmp_path / "cache") == Fetched(got.wanted, 0)
    cached = b"".join(path.read_bytes() for path in (tmp_path / "cache").glob("??/*"))
    assert b"words words" not in cached, "what lies in the cache is sealed"
    assert [row.lease.token for row in remote.heartbeat().leases] == [lease.token]


def test_publishing_twice_is_publishing_once_and_a_change_sends_the_change(world: World, tmp_path: Path) -> None:
    first = world.admin.publish_image(built(tmp_path / "a", image="twice"), world.publisher)
    again = world.admin.publish_image(built(tmp_path / "b", image="twice"), world.publisher)
    assert (again.version, again.fresh, again.sent) == (1, False, 0)
    changed = SYSTEM[: 1 << 20] + DICE.randbytes(8192) + SYSTEM[(1 << 20) + 8192 :]
    second = world.admin.publish_image(built(tmp_path / "c", changed, image="twice"), world.publisher)
    assert (second.version, second.fresh) == (2, True)
    assert 8192 < second.sent < 800_000 < first.stored


def test_a_chunk_that_the_server_has_lost_is_sealed_and_sent_again(world: World, tmp_path: Path) -> None:
    objects = world.folder / "server" / "objects"
    others = set(objects.glob("??/*"))
    data = random.Random(8).randbytes(3 << 20)
    world.admin.publish_image(built(tmp_path / "a", data, "holed"), world.publisher)
    lost = max(set(objects.glob("??/*")) - others, key=lambda path: path.stat().st_size)
    whole = lost.read_bytes()
    lost.unlink()
    second = world.admin.publish_image(built(tmp_path / "b", data + b"more" * 9000, "holed"), world.publisher)
    assert (second.version, second.fresh) == (2, True)
    assert lost.read_bytes() == whole


def test_an_interrupted_fetch_goes_on_where_it_was(world: World, remote: Remote, tmp_path: Path) -> None:
    lease = remote.checkout("work").lease
    index = remote.index(lease.image, lease.image_version)
    ids = list(index.ids)
    (tmp_path / "cache").mkdir()
    from twofold import _core

    _core.store_frames(tmp_path / "cache", remote.chunks(ids[: len(ids) // 2]))
    got = fetch(index.ids, remote, tmp_path / "cache")
    assert got.sent == sum(index.ids[chunk] for chunk in ids[len(ids) // 2 :])

    def stop(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(index.ids, remote, tmp_path / "other", stop)


def test_a_damaged_cache_heals_itself(world: World, remote: Remote, tmp_path: Path) -> None:
    lease = remote.checkout("work").lease
    index = remote.index(lease.image, lease.image_version)
    fetch(index.ids, remote, tmp_path / "cache")
    paths = sorted((tmp_path / "cache").glob("??/*"))
    paths[0].unlink()
    raw = bytearray(paths[1].read_bytes())
    raw[-1] ^= 1
    paths[1].write_bytes(raw)
    for part, data in (("kernel", b"kernel " * 1000), ("system", SYSTEM)):
        with open_part(index, part, tmp_path / "cache", remote) as reader:
            assert reader.read() == data
    fresh = fetch(index.ids, remote, tmp_path / "cache")
    assert fresh.sent == 0


class Liar:
    """A server, or somebody in between, that sends other bytes than it was asked for."""

    def __init__(self, remote: Remote, how: str) -> None:
        self.remote, self.how = remote, how

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        frames = bytearray(self.remote.chunks(ids))
        if self.how == "changed":
            frames[-1] ^= 1
        elif self.how == "truncated":
            del frames[-1]
        elif self.how == "swapped":
            frames[:32] = ids[-1]
        elif self.how == "withheld":
            return b""
        return bytes(frames)


@pytest.mark.parametrize("how", ["changed", "truncated", "swapped", "withheld"])
def test_a_lying_server_fills_no_cache(world: World, remote: Remote, tmp_path: Path, how: str) -> None:
    lease = remote.checkout("work").lease
    index = remote.index(lease.image, lease.image_version)
    with pytest.raises(DamagedError):
        fetch(index.ids, Liar(remote, how), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("??/*"))


def test_one_chunk_and_a_range_of_it(world: World, remote: Remote) -> None:
    lease = remote.checkout("work").lease
    index = remote.index(lease.image, lease.image_version)
    chunk = index.chunks["system"][0]
    assert len(remote.chunk(chunk.id)) == chunk.stored
    with pytest.raises(NotFoundError):
        remote.chunk(b"\0" * 32)


def test_a_second_device_is_told_who_has_the_workspace(world: World, remote: Remote, tmp_path: Path) -> None:
    remote.checkout("work")
    other = identity(tmp_path / "other")
    second = Remote(enrol(world.admin.invite_device("ada"), "Phone", other, bytes(32)), other, tmp_path / "seen2")
    with pytest.raises(ConflictError, match="Ada's laptop"):
        second.checkout("work")
    remote.checkin("work")
    assert second.checkout("work").lease.token > 1
    second.checkin("work")
    second.close()


def test_a_lease_of_another_device_is_not_believed(world: World, remote: Remote, tmp_path: Path) -> None:
    lease = remote.checkout("work")
    stranger = Remote(world.enrolment, identity(tmp_path / "stranger"), tmp_path / "seen3")
    with pytest.raises(RefusedError, match="another device"):
        stranger.lease(lease.document)
    with pytest.raises(RefusedError):
        remote.lease(lease.document, "other")
    assert remote.lease(lease.document, "work") == lease


def test_a_publisher_that_the_device_did_not_pin_is_refused(world: World, tmp_path: Path) -> None:
    other = publisher(tmp_path / "other")
    with pytest.raises(RefusedError):
        world.admin.publish_image(built(tmp_path / "image", image="fake"), other)
    forged = make_root(Keys([other.root_key().verify_key]), Keys([other.signing.verify_key]),
                       Keys([world.enrolment.server_key]), [other.root_key()])  # fmt: skip
    remote = Remote(dataclasses.replace(world.enrolment, root=forged), world.identity, tmp_path / "unpinned")
    lease = remote.checkout("work").lease
    with pytest.raises(RefusedError, match="does not hold"):
        remote.index(lease.image, lease.image_version)
    remote.checkin("work")
    remote.close()


def test_a_device_enrols_under_the_root_of_its_invitation_alone(world: World, tmp_path: Path) -> None:
    invited = https.invitation(world.admin.invite_device("ada"))
    swapped = dataclasses.replace(invited, anchor=dataclasses.replace(invited.anchor, root="0" * 64))
    with pytest.raises(RefusedError, match="does not have the root"):
        enrol(swapped.url, "Laptop", identity(tmp_path / "device"), bytes(32))


def test_another_server_gets_nothing(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "impostor"
    folder.mkdir()
    url = world.admin.invite_device("ada")
    with running(folder) as (impostor, log):
        here = https.invitation(url)
        led_astray = dataclasses.replace(here, place=impostor.place)
        with pytest.raises(RefusedError, match="not the server that the invitation names"):
            enrol(led_astray.url, "Laptop", identity(tmp_path / "device"), bytes(32))
        moved = Remote(dataclasses.replace(world.enrolment, place=impostor.place), world.identity, tmp_path / "moved")
        with pytest.raises(RefusedError, match="does not prove"):
            moved.grants()
        assert here.code not in log.read_text()
        assert "device/grants" not in log.read_text()


def test_a_part_that_changed_since_it_was_built_is_not_published(world: World, tmp_path: Path) -> None:
    image = built(tmp_path / "image", image="changed")
    (tmp_path / "image" / "system").write_bytes(SYSTEM[:-1] + b"x")
    with pytest.raises(DamagedError, match="not what the image's manifest says"):
        publish([(image, None)], world.publisher, world.admin)
    assert world.admin.newest("changed")["version"] == 0


def test_the_enrolment_is_kept_and_read_back(world: World, tmp_path: Path) -> None:
    path = tmp_path / "enrolment.json"
    with pytest.raises(NotFoundError, match="not enrolled"):
        Enrolment.load(path)
    world.enrolment.save(path)
    assert Enrolment.load(path) == world.enrolment
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError):
        Enrolment.load(path)


def test_a_server_that_is_not_there(world: World, tmp_path: Path) -> None:
    gone = dataclasses.replace(world.enrolment, place=https.Place("127.0.0.1", free_port()))
    with pytest.raises(UnreachableError):
        Remote(gone, world.identity, tmp_path).grants()


def test_a_taken_port_is_said_before_anything_starts(world: World) -> None:
    with pytest.raises(ConflictError, match="Port"):
        serve(world.folder / "server", "127.0.0.1", world.admin.place.port)


def test_tls_is_the_newest_and_names_are_checked(world: World) -> None:
    context = ssl.create_default_context(cadata=world.enrolment.authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(UnreachableError):
        https.Https(world.admin.place, context, 5).request("GET", "/")
    with pytest.raises((RefusedError, UnreachableError)):
        https.pinned(https.Place("127.0.0.2", world.admin.place.port), world.enrolment.authority).request("GET", "/")


def test_a_wrong_password_and_a_wrong_invitation(world: World, tmp_path: Path) -> None:
    other = Admin(world.admin.place.origin, world.admin.pin)
    with pytest.raises(RefusedError, match="wrong"):
        other.login(ADMIN, PASSWORD + "x")
    with pytest.raises(RefusedError, match="Sign in"):
        other.list_users()
    other.close()
    used = https.Invitation(world.admin.place, "A" * 26, world.admin.pin, world.publisher.anchor()).url
    with pytest.raises(RefusedError, match="invitation"):
        enrol(used, "Laptop", identity(tmp_path / "d"), bytes(32))
    with pytest.raises(BadInputError):
        enrol("https://work.example.org", "Laptop", identity(tmp_path / "d"), bytes(32))


def test_secrets_are_not_logged(world: World) -> None:
    log = world.log.read_text()
    assert '"path": "/api/v1/login"' in log
    for secret in (PASSWORD, "ada ada ada ada", world.admin.token, "Ada's laptop"):
        assert secret not in log


def test_streams_that_share_a_line_end_together() -> None:
    ids = {number.to_bytes(32, "big"): 20_000 + number % 7 for number in range(600)}
    sizes = [sum(ids[each] for each in batch) for batch in batched(list(ids), ids, 1 << 20, streams=3)]
    alone = list(batched(list(ids), ids, 1 << 20))
    assert [each for batch in alone for each in batch] == list(ids)
    assert sum(sizes) == sum(ids.values())
    assert sizes[0] > 1 << 20, "large ones while there is much"
    assert max(sizes[-3:]) < 200_000
    assert len(sizes) < 3 * len(alone)
