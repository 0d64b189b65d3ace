"""Build an image from a recipe, once: the result is kept under a key of everything that went into it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import twofold.guest
from twofold.image import initrd, kernel, recipe, rootfs, unpacked
from twofold.model.errors import DamagedError, MissingError
from twofold.model.image import App, Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.model.progress import Progress, silent
from twofold.platform.run import run

FILES = {"kernel": "kernel", "initrd": "initrd", "system": "system.erofs", "user-template": "user-template.raw"}
FIRST_BOOT = (
    "first-boot.json"  # beside the parts, once a start of it was recorded; what `disk touched --output json` prints
)
_USER_UUID = "7766f01d-0000-4000-8000-000000000002"
_BLOCK = 1 << 20
# ext4: bytes of a block, of a group of blocks, of a row in the table of groups.
_EXT4_BLOCK, _EXT4_GROUP, _EXT4_ROW = 4096, 128 << 20, 64


@dataclass(frozen=True)
class Built:
    """A finished build: its manifest (version 0: not published yet) and the folder with a file for each part.

    `seconds` is how long it took when it was really built, 0 where that is not known (an import).
    """

    folder: Path
    manifest: ImageVersion
    seconds: float = 0.0

    def path(self, part: str) -> Path:
        return self.folder / (FILES[part] if self.manifest.firmware is Firmware.DIRECT else f"{part}.raw")

    @property
    def first_boot(self) -> object:
        """What a start of it was seen to read, for `publish`, which checks it; None where nobody recorded it.

        Raises:
            DamagedError: the record cannot be read.
        """
        try:
            return json.loads((self.folder / FIRST_BOOT).read_bytes())["ranges"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as why:
            raise _damaged(self.folder) from why


def build(where: Path, arch: Arch, cache: Path, progress: Progress = silent) -> Built:
    """Build the recipe in the folder `where`, or find it built in `cache`. A build that is killed leaves no half of one.

    Raises:
        NotFoundError, BadInputError: the recipe. MissingError: a tool, mirror or permission. CommandError: a tool failed.
    """
    wanted = recipe.read(where, arch)
    guest = Path(twofold.guest.__file__).parent
    arranger = Path(unpacked.__file__) if rootfs.emulator(arch) else None
    target = cache / "builds" / recipe.key(where, guest, wanted, arch, arranger)
    if target.is_dir():  # looked at before anything is written: the cache may be another user's, and readable only
        return load(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.with_suffix(".lock")):
        if target.is_dir():
            return load(target)
        with ExitStack() as undo:
            began = time.monotonic()
            work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            undo.callback(shutil.rmtree, work, ignore_errors=True)
            out = work / "out"
            out.mkdir()
            rootfs.build(wanted, guest, arch, work, progress)
            progress("Making the boot files", 0, 0)
            manifest = _assemble(wanted, arch, work, out)
            (out / "manifest.json").write_text(
                json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True) + "\n"
            )
            (out / "seconds").write_text(f"{time.monotonic() - began:.3f}\n")
            for path in out.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            out.rename(target)
    return load(target)


def load(folder: Path) -> Built:
    """A finished build from its folder.

    Raises:
        DamagedError: files are missing or of another size than the manifest says.
    """
    try:
        data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        manifest = ImageVersion(
            **{
                **data,
                "arch": Arch(data["arch"]),
                "firmware": Firmware(data["firmware"]),
                "mode": SystemMode(data["mode"]),
                "parts": tuple(Part(**part) for part in data["parts"]),
                "apps": tuple(App(**app) for app in data["apps"]),
            }
        )
        took = folder / "seconds"
        built = Built(folder, manifest, float(took.read_text()) if took.exists() else 0.0)
        whole = all(built.path(part.name).stat().st_size == part.size for part in manifest.parts)
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise _damaged(folder) from why
    if not whole:
        raise _damaged(folder)
    return built


def _damaged(folder: Path) -> DamagedError:
    return DamagedError(
        f"The kept build in {folder} is not whole.",
        safe="Published images and workspaces are not touched.",
        next=f"Remove it and build again:  rm -r {folder}",
    )


def _assemble(wanted: recipe.Recipe, arch: Arch, work: Path, out: Path) -> ImageVersion:
    kernel.unpack(work / "vmlinuz", out / FILES["kernel"])
    modules = work / "modules"
    (out / FILES["initrd"]).write_bytes(
        initrd.build((wanted.folder / "init").read_bytes(), (work / "busybox").read_bytes(), modules, wanted.initrd)
    )
    (work / "system.erofs").rename(out / FILES["system"])
    user_template(out / FILES["user-template"], wanted.user_disk_size)
    apps = json.loads((work / "apps.json").read_text())
    return ImageVersion(
        image=wanted.name,
        version=0,
        arch=arch,
        firmware=Firmware.DIRECT,
        mode=wanted.mode,
        parts=tuple(part(name, out / file) for name, file in FILES.items()),
        cmdline=wanted.cmdline,
        user_disk_size=wanted.user_disk_size,
        has_agent=True,
        recipe=wanted.name,
        apps=tuple(App(id, app["name"], app["icon"]) for id, app in sorted(apps.items()) if not app["hidden"]),  # noqa: A001
    )


def user_template(path: Path, size: int) -> None:
    """The beginning of an empty ext4 file system of `size` bytes: all that is not zero. A disk of `size` bytes that starts with
    it is whole; the guest makes the home folder in it at its first start.
    """
    with path.open("xb") as file:
        file.truncate(size)
    # All tables at the start: the rest of the disk is zero and need not be stored, hashed or sent. It can be made larger while it
    # is mounted, which needs no room kept for a larger table of groups (resize_inode), but places for spare superblocks (Linux
    # refuses sparse_super2). They stay empty here: nothing reads them, and the kernel fills them when it makes the disk larger.
    options = f"lazy_itable_init=1,lazy_journal_init=1,hash_seed={_USER_UUID},nodiscard"
    run(
        ["mkfs.ext4", "-q", "-F", "-b", str(_EXT4_BLOCK), "-U", _USER_UUID, "-m", "0", "-G", "64",
         "-J", "size=16,location=2048", "-O", "^resize_inode", "-E", options, path],
        env={"E2FSPROGS_FAKE_TIME": "1700000000", "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    groups = -(-size // _EXT4_GROUP)
    spare = _EXT4_BLOCK * (1 + -(-groups * _EXT4_ROW // _EXT4_BLOCK))  # a superblock, and a table of groups
    for group in (number for number in range(1, groups) if _has_spare(number)):
        run(["fallocate", "--punch-hole", "--offset", str(group * _EXT4_GROUP), "--length", str(spare), path])
    with path.open("r+b") as file:
        file.truncate(-(-_data_end(file.fileno()) // _BLOCK) * _BLOCK)


def _has_spare(group: int) -> bool:
    """Group 1 and powers of 3, 5 and 7 (ext4's sparse_super)."""
    for base in (3, 5, 7):
        power = 1
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def _data_end(fd: int) -> int:
    """Where the last data of a sparse file ends (lseek(2), SEEK_DATA)."""
    end = 0
    while True:
        try:
            end = os.lseek(fd, os.lseek(fd, end, os.SEEK_DATA), os.SEEK_HOLE)
        except OSError:
            return end


def part(name: str, path: Path) -> Part:
    """The part `name` with the size and SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return Part(name, path.stat().st_size, total.hexdigest())


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One builder of one key at a time; a second one waits and then finds the build."""
    try:
        file = lock.open("w")
    except PermissionError as why:
        raise MissingError(
            f"This image is not built yet, and {lock.parent} belongs to another user.",
            safe="Nothing was changed.",
            next="Build it as that user (as root: make image), or name another folder in TWOFOLD_BUILDS.",
        ) from why
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
