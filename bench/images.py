"""`make bench-images`: what a new version with one package upgraded costs on the wire, by how the disk is laid out and cut, and
against casync, zsync and rsync on the same two disks.

The upgrade: libc6, as if rebuilt for a security fix. In each of its programs and libraries 16 bytes come in at a third (code that
moved), every 4096th byte is another (addresses), and so are 20 bytes at the start (a build id). Both disks are packed from the
two trees by the same command, as `image build` packs them. Bytes do not vary: there is one round.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from bench.report import report, row
from twofold import _core
from twofold.platform.run import find, run

MIB = 1 << 20
SECRET = hashlib.sha256(b"bench").digest()
UUID = "7766f01d-0000-4000-8000-000000000001"
BUILDS = Path(os.environ.get("TWOFOLD_BUILDS") or "/var/cache/twofold") / "builds"


def main() -> int:
    words = argparse.ArgumentParser(prog="make bench-images", description=__doc__)
    words.add_argument("--image", type=Path, help="a system.erofs; by default the newest build")
    image = words.parse_args().image or max(BUILDS.glob("*/system.erofs"), key=lambda path: path.stat().st_mtime)
    with tempfile.TemporaryDirectory(prefix="twofold-bench-images-", dir="/var/tmp") as name:
        folder = Path(name)
        trees = folder / "one", folder / "two"
        for tree in trees:
            run(["fsck.erofs", f"--extract={tree}", "--no-preserve", image], timeout=600)
        files, changed = upgrade(trees[1])
        rows, notes = (
            [],
            [f"Upgraded: libc6, {files} files of {changed / MIB:.1f} MiB, in an image of {size(image):.0f} MiB."],
        )
        for layout, pack in LAYOUTS.items():
            one, two = (pack(tree, folder / f"{tree.name}.{layout.split()[0]}") for tree in trees)
            plain, stored = content(one, two)
            others: dict[str, Sequence[float]] = {
                f"fixed {step >> 10} KiB": [fixed(one, two, step) / MIB] for step in (4096, 65536, 262144)
            }
            rows.append(row(f"{layout}: plain bytes in new chunks", "MiB", [plain / MIB], others))
            if layout == "erofs as built":
                with served(folder) as url:
                    peers: dict[str, Sequence[float]] = {
                        name: [peer(one, two, url) / MIB] for name, peer in PEERS.items()
                    }
                wire = stored + sealed_index(two)
                rows.append(row("version 2 over the wire (chunks, index)", "MiB", [wire / MIB], peers, at_most=1))
            for disk in (one, two):
                disk.unlink()
        report("images", rows, notes)
    return 0


LIBC = re.compile(
    r"(ld-linux-[\w-]+|ld-[\d.]+|lib(BrokenLocale|anl|c|c_malloc_debug|dl|m|memusage|mvec|nsl|nss_\w+|pcprofile|pthread|resolv|rt|"
    r"thread_db|util))\.so(\.\d+)*"
)


def upgrade(tree: Path) -> tuple[int, int]:
    """Rebuild libc6. Returns how many files changed and their bytes."""
    count = total = 0
    for path in sorted((tree / "usr/lib").glob("*-linux-gnu/*")) + sorted(
        (tree / "usr/lib").glob("*-linux-gnu/gconv/*")
    ):
        ours = LIBC.fullmatch(path.name) or path.parent.name == "gconv"
        if not ours or path.is_symlink() or not path.is_file() or not _elf(path):
            continue
        body = bytearray(path.read_bytes())
        third = len(body) // 3 & ~15
        body[64:84] = hashlib.sha1(body, usedforsecurity=False).digest()
        body[third:third] = b"\x90" * 16
        del body[-16:]
        body[100::4096] = bytes(byte ^ 1 for byte in body[100::4096])
        path.chmod(0o755)
        path.write_bytes(body)
        count, total = count + 1, total + len(body)
    assert total > MIB, "the image has no libc6 where it was looked for"
    return count, total


def _elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def erofs(tree: Path, disk: Path) -> Path:
    run(["mkfs.erofs", "--quiet", "-T0", "-x-1", f"-U{UUID}", "--all-root", disk, tree], timeout=600)
    return disk


def apart(tree: Path, disk: Path) -> Path:
    """Metadata first, then all data, each file on 4 KiB."""
    blob = disk.with_suffix(".blob")
    run(
        ["mkfs.erofs", "--quiet", "-T0", "-x-1", f"-U{UUID}", "--all-root", "--chunksize=4096", f"--blobdev={blob}",
         disk, tree], timeout=900,
    )  # fmt: skip
    with disk.open("ab") as whole, blob.open("rb") as data:
        shutil.copyfileobj(data, whole)
    blob.unlink()
    return disk


def ext4(tree: Path, disk: Path) -> Path:
    used = int(run(["du", "-s", "--block-size=1M", tree]).stdout.split()[0])
    run(["truncate", "-s", f"{used * 5 // 4 + 64}M", disk])
    options = f"hash_seed={UUID},nodiscard,root_owner=0:0"
    env = {"E2FSPROGS_FAKE_TIME": "1700000000"}
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-E", options, "-d", tree, disk], env=env, timeout=900)
    return disk


def tar(tree: Path, disk: Path) -> Path:
    run(["tar", "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf", disk, "-C", tree, "."], timeout=600)
    return disk


LAYOUTS: dict[str, Callable[[Path, Path], Path]] = {
    "erofs as built": erofs,
    "erofs, data apart on 4 KiB": apart,
    "ext4": ext4,
    "tar": tar,
}


def chunks(disk: Path) -> dict[bytes, tuple[int, int]]:
    """By id: plain and stored bytes."""
    found: dict[bytes, tuple[int, int]] = {}
    sealer = _core.Sealer(disk, SECRET)
    while (batch := sealer.next(16 << 20)) is not None:
        found |= {chunk: (plain, stored) for _, plain, stored, chunk, _ in batch.rows}
    return found


def content(one: Path, two: Path) -> tuple[int, int]:
    """Plain and stored bytes of the chunks that only the second has, cut as `image publish` cuts."""
    before, after = chunks(one), chunks(two)
    new = [sizes for chunk, sizes in after.items() if chunk not in before]
    return sum(plain for plain, _ in new), sum(stored for _, stored in new)


def sealed_index(disk: Path) -> int:
    """The second version's sealed index, which is sent whole: an id and a key for each chunk, and 11 bytes for its place."""
    return len(chunks(disk)) * (64 + 11)


def fixed(one: Path, two: Path, step: int) -> int:
    def blocks(disk: Path) -> Iterator[tuple[bytes, int]]:
        with disk.open("rb") as file:
            while block := file.read(step):
                yield hashlib.blake2b(block, digest_size=32).digest(), len(block)

    before = {digest for digest, _ in blocks(one)}
    return sum({digest: length for digest, length in blocks(two) if digest not in before}.values())


def casync(one: Path, two: Path, url: str) -> int:
    """The new chunks in a store that has the first disk's, and the index."""
    store = one.parent / "default.castr"
    held = 0
    for disk in (one, two):
        held = size_of(store)
        run(["casync", "make", "--digest=sha256", f"--store={store}", f"{disk}.caibx", disk], timeout=900)
    total = size_of(store) - held + (two.parent / f"{two.name}.caibx").stat().st_size
    shutil.rmtree(store)
    return total


def zsync(one: Path, two: Path, url: str) -> int:
    """What it says that it fetched, and the control file."""
    control = two.parent / f"{two.name}.zsync"
    run(["zsyncmake", "-u", f"{url}/{two.name}", "-o", control, two], timeout=900)
    done = run(["zsync", "-i", one, "-o", two.parent / "new", f"{url}/{control.name}"], timeout=900, cwd=two.parent)
    said = re.search(rb"fetched (\d+)", done.stdout + done.stderr)
    assert said is not None, done.stdout[-300:]
    return int(said[1]) + control.stat().st_size


def rsync(one: Path, two: Path, url: str) -> int:
    """Bytes in both directions, compressed with zstd."""
    copy = one.parent / "copy"
    shutil.copyfile(one, copy)
    words = ["rsync", "--no-whole-file", "-I", "--inplace", "--compress", "--compress-choice=zstd", "--stats"]
    done = run([*words, two, copy], timeout=900, env={"LC_ALL": "C"})
    copy.unlink()
    sent = re.findall(rb"Total bytes (?:sent|received): ([\d,]+)", done.stdout)
    return sum(int(each.replace(b",", b"")) for each in sent)


PEERS: dict[str, Callable[[Path, Path, str], int]] = {"casync": casync, "zsync": zsync, "rsync": rsync}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.exists() else 0


def size(path: Path) -> float:
    return path.stat().st_size / MIB


class _Ranges(SimpleHTTPRequestHandler):
    """With the ranges that zsync asks for, several in a request (RFC 9110, 14.6)."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = Path(self.translate_path(self.path)).read_bytes()
        wanted = re.findall(r"(\d+)-(\d+)", self.headers.get("Range", ""))
        spans = [(int(first), min(int(last), len(body) - 1)) for first, last in wanted]
        if len(spans) == 1:
            self._send(206, body[spans[0][0] : spans[0][1] + 1], "Content-Range", self._place(spans[0], len(body)))
        elif spans:
            head = "\r\n--cut\r\nContent-Type: application/octet-stream\r\nContent-Range: "
            parts = [
                f"{head}{self._place(span, len(body))}\r\n\r\n".encode() + body[span[0] : span[1] + 1] for span in spans
            ]
            self._send(206, b"".join(parts) + b"\r\n--cut--\r\n", "Content-Type", "multipart/byteranges; boundary=cut")
        else:
            self._send(200, body, "Content-Type", "application/octet-stream")

    def _send(self, status: int, body: bytes, name: str, value: str) -> None:
        self.send_response(status)
        self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def _place(span: tuple[int, int], whole: int) -> str:
        return f"bytes {span[0]}-{span[1]}/{whole}"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its own name
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder over HTTP on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(folder)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    for program in ("casync", "zsync", "zsyncmake", "rsync", "mkfs.erofs", "fsck.erofs", "mke2fs"):
        find(program)
    raise SystemExit(main())
