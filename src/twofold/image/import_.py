"""Any other disk as an image: qcow2, raw, vmdk, vhdx or OVA in, one raw system disk out. The file is not trusted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from twofold.image import formats, partitions
from twofold.image.build import Built, load, part
from twofold.image.formats import Format
from twofold.model.errors import BadInputError, DamagedError, NoRoomError, NotFoundError, RefusedError, TimedOutError
from twofold.model.image import ImageVersion, SystemMode
from twofold.model.names import slug
from twofold.model.progress import Progress, silent
from twofold.platform.run import CommandError, replayable, run, spawn

SYSTEM = "system.raw"
_MEMORY = 2 << 30  # bytes of address space that qemu-img may use
_SPARE = 512 << 20  # bytes of the disk that an import never takes
_DEADLINE = 4 * 3600.0
_BLOCK = 4096
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a named pipe must not hold us


def import_disk(file: Path, name: str, cache: Path, progress: Progress = silent) -> Built:
    """Import a disk file as the image `name`, or find it imported in `cache`. The file itself is never changed.

    Raises:
        NotFoundError: no such file. BadInputError: not a disk, not whole, or nothing to start. RefusedError: it names other
        files, is encrypted or too large. NoRoomError: the disk is short; nothing remains. MissingError: no qemu-img.
    """
    slug(name, "an image")
    with ExitStack() as undo:
        try:
            source = undo.enter_context(os.fdopen(os.open(file, _READ), "rb"))
        except OSError as why:
            raise NotFoundError(f"{file} cannot be read: {why.strerror}.", safe="Nothing was imported.") from why
        if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            raise BadInputError(f"{file} is not a file.", safe="Nothing was imported.")
        kind = formats.detect(source)
        target = cache / "builds" / f"import-{_digest(source, name, progress)[:32]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            return load(target)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        undo.callback(shutil.rmtree, work, ignore_errors=True)
        out = work / "out"
        out.mkdir()
        if kind is Format.OVA:
            progress("Unpacking the archive", 0, 0)
            formats.unpack_ova(source, work / "disk")
            source = undo.enter_context((work / "disk").open("rb"))
            kind = formats.detect(source)
            if kind is Format.OVA:
                raise RefusedError("This OVA holds another archive instead of a disk.", safe="Nothing was imported.")
        formats.check(source, kind)
        _convert(source, kind, out / SYSTEM, progress)
        with (out / SYSTEM).open("r+b") as disk:
            os.ftruncate(disk.fileno(), -(-os.fstat(disk.fileno()).st_size // _BLOCK) * _BLOCK)
            firmware, arch = partitions.firmware(disk.fileno())
            os.fsync(disk.fileno())
        manifest = ImageVersion(
            image=name, version=0, arch=arch, firmware=firmware, mode=SystemMode.PERSISTENT,
            parts=(part("system", out / SYSTEM),), has_agent=False, recipe=f"import:{kind.value}",
        )  # fmt: skip
        (out / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True) + "\n")
        try:
            out.rename(target)
        except OSError:
            if not target.is_dir():
                raise  # where it is there, another import of the same file was quicker
    return load(target)


def _digest(source: BinaryIO, name: str, progress: Progress) -> str:
    total, done, size = hashlib.sha256(f"{name}\0".encode()), 0, os.fstat(source.fileno()).st_size
    source.seek(0)
    while block := source.read(1 << 20):
        total.update(block)
        done += len(block)
        progress("Reading the disk", done, size)
    return total.hexdigest()


def _convert(source: BinaryIO, kind: Format, target: Path, progress: Progress) -> None:
    fd = source.fileno()
    here = f"/proc/self/fd/{fd}"  # the very file that was checked, whatever its name stands for by now
    size = _virtual_size(here, fd, kind)
    _check_whole(here, fd, kind, progress)
    argv = [
        *_limited(size), "qemu-img", "convert", "-p", "-f", kind.value, "-O", "raw", "-S", "4k", here, str(target),
    ]  # fmt: skip
    child = spawn(argv, pass_fds=(fd,), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + _DEADLINE
    try:
        assert child.stdout is not None
        assert child.stderr is not None
        while block := os.read(child.stdout.fileno(), 4096):
            seen = re.findall(rb"\((\d+)\.\d+/100%\)", block)
            if seen:
                progress("Converting the disk", size * int(seen[-1]) // 100, size)
            if shutil.disk_usage(target.parent).free < _SPARE:
                raise NoRoomError(
                    "The disk is too full to import this one.",
                    safe="Nothing was imported.",
                    next="Make room and try again.",
                )
            if time.monotonic() > end:
                raise TimedOutError("Converting the disk took too long and was stopped.", safe="Nothing was imported.")
        words = child.stderr.read().decode(errors="replace")
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    if child.returncode != 0:
        raise DamagedError(
            f"This {kind.value} disk cannot be read to its end.",
            safe="Nothing was imported; the file is unchanged.",
            next=f"To see it again:  {replayable(argv)}",
        ) from CommandError(replayable(argv), child.returncode, words)


def _virtual_size(here: str, fd: int, kind: Format) -> int:
    argv = [*_limited(1), "qemu-img", "info", "--output=json", "-f", kind.value, here]
    try:
        told = json.loads(run(argv, pass_fds=(fd,), timeout=60).stdout)
        size = int(told["virtual-size"])
    except (CommandError, ValueError, KeyError) as why:
        raise DamagedError(
            f"This {kind.value} disk cannot be read.", safe="Nothing was imported; the file is unchanged."
        ) from why
    details = told.get("format-specific", {}).get("data", {})
    if (
        "backing-filename" in told
        or "data-file" in details
        or told.get("encrypted")
        or len(details.get("extents", [])) > 1
    ):
        raise RefusedError("This disk stands on other files or is encrypted.", safe="Nothing was imported.")
    if not 0 < size <= formats.MAX_SIZE:
        raise RefusedError(
            f"This disk says that it has {size} bytes, which is too large.", safe="Nothing was imported."
        )
    return size


def _check_whole(here: str, fd: int, kind: Format, progress: Progress) -> None:
    # Read past a file's end QEMU sees zeroes: without this a disk cut short would be imported with holes in it.
    if kind is Format.RAW:
        return
    progress("Checking the disk", 0, 0)
    argv = [*_limited(1), "qemu-img", "check", "-q", "-f", kind.value, here]
    done = run(argv, pass_fds=(fd,), timeout=_DEADLINE, check=False)
    if done.returncode not in (0, 3):  # 3: space that nothing uses, no harm (qemu-img(1))
        raise DamagedError(
            f"This {kind.value} disk is damaged or cut short.",
            safe="Nothing was imported; the file is unchanged.",
            next=f"Copy it again from where it came, or look at it:  qemu-img check -f {kind.value} FILE",
        ) from CommandError(replayable(argv), done.returncode, done.stderr.decode(errors="replace"))


def _limited(size: int) -> list[str]:
    """A prefix that bounds what a hostile disk can make qemu-img do."""
    return ["prlimit", f"--as={_MEMORY}", f"--fsize={size + (1 << 20)}", "--core=0", "--nofile=64", "--"]
