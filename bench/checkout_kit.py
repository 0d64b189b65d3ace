"""What the parts of `make bench-checkout` share: a server of their own, and what commands take of wall and processor time."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tests.unit.server_kit import ADMIN, PASSWORD, running
from twofold.agent.store import KEY, VAULT
from twofold.engine.probe import native
from twofold.image.build import Built, load
from twofold.platform.dirs import Dirs
from twofold.platform.run import run
from twofold.server.client import Admin
from twofold.vault.seam import Keys
from twofold.vault.store import SealedVault

MIB = 1 << 20
TREE = Path(__file__).resolve().parents[1]
BUILDS = Path(os.environ.get("TWOFOLD_BUILDS") or "/var/cache/twofold") / "builds"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Took:
    """Seconds: on the clock, and of processors, those of a server beside it included."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Company:
    """A server in a process of its own, its administrator, and a home folder whose command line is logged in."""

    admin: Admin
    folder: Path

    @property
    def objects(self) -> Path:
        return self.folder / "server" / "objects"

    def cli(self, *words: str | Path) -> bytes:
        done = run([sys.executable, "-m", "twofold.cli", *words], env=self.environment, timeout=900)
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {"TWOFOLD_HOME": str(self.folder / "device"), "PYTHONPATH": str(TREE / "src")}

    def processor(self) -> float:
        """Seconds of processors that the server has used so far."""
        return sum(_processor(pid) for pid in _tree(self.admin_pid()))

    def admin_pid(self) -> int:
        return next(pid for pid in _children(os.getpid()) if b"twofold.server" in _words(pid))


@contextmanager
def company(folder: Path) -> Iterator[Company]:
    """A new server in `folder`, which must not be there yet."""
    folder.mkdir(mode=0o700)
    with running(folder) as (admin, _):
        here = Company(admin, folder)
        (folder / "device").mkdir(mode=0o700)
        run(
            [sys.executable, "-m", "twofold.cli", "login", admin.place.origin, "--user", ADMIN, "--pin", admin.pin],
            env=here.environment, stdin=PASSWORD.encode() + b"\n",
        )  # fmt: skip
        yield here


def newest() -> Built:
    """The business image that was built last for this machine's processor."""
    builds = sorted(BUILDS.glob("*/system.erofs"), key=lambda path: path.stat().st_mtime)
    own = [built for path in builds if (built := load(path.parent)).manifest.arch is native()]
    return own[-1]


def timed(work: Callable[[], object], beside: Callable[[], float] = lambda: 0.0) -> Took:
    """What `work` takes until all that was written lies on the disk. `beside` are processor seconds of what serves it."""
    os.sync()
    children, others, began = _spent(), beside(), perf_counter()
    work()
    os.sync()
    return Took(perf_counter() - began, _spent() - children + beside() - others)


def again(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def edit_user_disk(dirs: Dirs, workspace: str, folder: Path, commands: Sequence[str]) -> None:
    """Do these commands of debugfs(8) on the user's disk of a workspace that is off; its file system first grows to its end."""
    runtime, plain, where = folder / "runtime", folder / "user.raw", dirs.state / "workspaces" / workspace
    runtime.mkdir(mode=0o700)
    vaults = SealedVault(dirs.state / "device", dirs.state / "anchors")
    vault = vaults.open(where / VAULT, Keys(workspace, (where / KEY).read_bytes()), runtime)
    try:
        disk = f"nbd+unix:///user?socket={vault.socket}"
        run(["qemu-img", "convert", "-f", "raw", "-O", "raw", disk, plain], timeout=300)
        run(["e2fsck", "-fy", plain], timeout=300, check=False)  # which says 1 for what it set right
        run(["resize2fs", plain], timeout=300)
        run(["debugfs", "-w", "-f", "-", plain], stdin="\n".join(commands).encode() + b"\n", timeout=600)
        run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", plain, disk], timeout=900)
    finally:
        vault.close()
        plain.unlink(missing_ok=True)
        shutil.rmtree(runtime)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def turned(names: Sequence[str], number: int) -> list[str]:
    """The names in this round's order: each begins as often as the others."""
    return [*names[number % len(names) :], *names[: number % len(names)]]


def fastest_first(samples: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The peers with the least median in front, since the ratio is to the first."""
    return dict(sorted(samples.items(), key=lambda row: sorted(row[1])[len(row[1]) // 2]))


def tell(said: str) -> None:
    sys.stderr.write(said + "\n")


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in found for child in children.read_text().split()]


def _tree(pid: int) -> list[int]:
    return [pid, *(each for child in _children(pid) for each in _tree(child))]


def _words(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
