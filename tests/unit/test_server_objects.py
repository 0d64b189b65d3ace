"""The two stores of sealed bytes, a folder and a real S3 server: what one does, the other does."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import obstore
import pytest

from tests.harness.s3 import Buckets, s3
from tests.unit.company_kit import company, index, upload
from tests.unit.server_kit import Backend, Local
from tests.unit.vault_kit import WORK, device
from twofold import _core
from twofold.model.errors import BadInputError, DamagedError
from twofold.server import objects
from twofold.server.backup import backup, restore
from twofold.server.checking import check_server
from twofold.server.objects import Objects, opened


@pytest.fixture(scope="module")
def buckets() -> Iterator[Buckets]:
    with s3() as made:
        yield made


@pytest.fixture(params=["folder", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for objects, as `server.json` names it; "" is the server's folder."""
    if request.param == "folder":
        return ""
    made: Buckets = request.getfixturevalue("buckets")
    return made.url(f"b-{os.urandom(4).hex()}")


@pytest.fixture
def store(where: str, tmp_path: Path) -> Objects:
    folder = tmp_path / "objects"
    folder.mkdir()
    return opened(where or folder)


async def everything(store: Objects, key: str, start: int, end: int) -> bytes:
    return b"".join([part async for part in objects.stream(store, key, start, end)])


def test_chunks_come_back_as_they_went(store: Objects, tmp_path: Path) -> None:
    made, frames = index(tmp_path, 1)
    ids = list(made.ids.items())
    assert store.lacking([(chunk, None) for chunk, _ in ids]) == [chunk for chunk, _ in ids]
    for bad in (frames[:-1], frames + b"x", frames[:-1] + bytes([frames[-1] ^ 1])):
        with pytest.raises(ValueError, match=r"."):
            store.store_frames(bad)
    assert store.lacking(list(ids)) == [chunk for chunk, _ in ids], "none was kept"
    assert store.store_frames(frames) == len(ids)
    assert store.store_frames(frames) == 0
    store.sync()
    assert store.lacking(list(ids)) == []
    assert store.lacking([(ids[0][0], ids[0][1] + 1)]) == [ids[0][0]], "of another size is not there"
    assert store.read_frames([chunk for chunk, _ in ids]) == frames
    with pytest.raises((OSError, ValueError)):
        store.read_frames([b"\0" * 32])


def test_a_file_is_kept_listed_read_by_range_and_removed(store: Objects, tmp_path: Path) -> None:
    body = os.urandom(20 << 20)  # more than one part of an upload to S3
    file = tmp_path / "file"
    file.write_bytes(body)
    key = f"workspaces/1/2/{'a' * 64}.0123456789abcdef"
    store.put(key, file)
    assert not file.exists()
    assert objects.size(store, key) == len(body)
    assert anyio.run(everything, store, key, 0, len(body)) == body
    assert anyio.run(everything, store, key, 5_000_001, 9_000_007) == body[5_000_001:9_000_007]
    ((name, size, changed),) = objects.names(store, "workspaces")
    assert (name, size) == (key, len(body))
    assert abs(changed - Path("/proc/self").stat().st_mtime) < 3600
    objects.remove(store, [key, key])
    assert objects.size(store, key) is None
    with pytest.raises(DamagedError):
        anyio.run(everything, store, key, 0, 1)


def test_the_whole_server_on_it(where: str, tmp_path: Path) -> None:
    local = company(Backend(), tmp_path, where)
    mine = device(local, tmp_path / "a")
    mine.check_out()
    made, frames = index(tmp_path, 1)
    chunk = made.chunks["system"][0].id
    assert upload(local, frames) == 200
    assert _core.chunk_id(mine.call("GET", f"chunks/{chunk.hex()}").content) == chunk
    assert mine.call("POST", "chunks", {"ids": [chunk.hex()]}).status_code == 200
    mine.back_up(300_000)
    for digest, body in mine.files.items():
        assert mine.call("GET", f"objects/{WORK}/{digest}").content == body
    kept = {row[0] for row in objects.names(opened(local.home.objects), "workspaces")}
    assert len(kept) == 1
    if where:
        assert not any((local.home.folder / "objects").iterdir()), "nothing lies in the folder"
    backup(local.home, tmp_path / "backup")
    folder = restore(tmp_path / "backup", tmp_path / "second")
    assert check_server(folder).lost == check_server(local.home).lost == ()
    assert {row[0] for row in objects.names(opened(folder.objects), "workspaces")} == kept
    lost_one(local, kept.pop())
    assert len(check_server(local.home).lost) == 1
    assert mine.call("GET", f"objects/{WORK}/{digest}").status_code == 500
    local.database.close()


def test_objects_may_lie_on_a_disk_of_their_own(tmp_path: Path) -> None:
    far = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        assert far.stat().st_dev != tmp_path.stat().st_dev, "the same file system: nothing would be tested"
        file = tmp_path / "file"
        file.write_bytes(b"sealed")
        opened(far).put("workspaces/1/2/x", file)
        assert not file.exists()
        assert [path.name for path in (far / "workspaces/1/2").iterdir()] == ["x"]
        assert (far / "workspaces/1/2/x").read_bytes() == b"sealed"
    finally:
        shutil.rmtree(far)


def lost_one(local: Local, key: str) -> None:
    obstore.delete(opened(local.home.objects).store, key)


@pytest.mark.parametrize(
    "url", ["s3://", "http://bucket", "s3://key:secret@bucket", "s3://bucket?password=x", "file:///tmp", "bucket"]
)
def test_other_urls_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadInputError) as refused:
        opened(url)
    assert "secret" not in str(refused.value)
