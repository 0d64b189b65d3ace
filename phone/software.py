"""Twofold as the phone has it: the arm64 .deb's files on a read-only disk of their own. A change of ours builds no new system."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from phone.build import TREE, cache
from twofold.image.build import Built
from twofold.image.rootfs import emulator
from twofold.model.errors import MissingError
from twofold.model.image import Arch
from twofold.platform.run import find, run

_HOME = "usr/lib/twofold"  # in the package and on the phone
_SECONDS = 900.0  # compiling is translated


def software(system: Built) -> Path:
    """The disk for a phone that runs `system`, from the cache or made now of the newest out/dist/arm64/*.deb.

    Raises:
        MissingError: there is no such package.
    """
    packages = sorted((TREE / "out/dist/arm64").glob("*.deb"), key=lambda path: path.stat().st_mtime)
    if not packages:
        raise MissingError("There is no package of Twofold for arm64 here.", next="Build it:  tools/dist --arch arm64")
    whole = hashlib.sha256(packages[-1].read_bytes() + Path(__file__).read_bytes())
    for part in system.manifest.parts:
        whole.update(part.sha256.encode())
    target = cache() / "software" / f"{whole.hexdigest()[:32]}.erofs"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            _make(packages[-1], system, Path(work)).rename(target)
    return target


def _make(package: Path, system: Built, work: Path) -> Path:
    run(["dpkg-deb", "--extract", package, work / "package"], timeout=_SECONDS)
    home = work / "package" / _HOME
    (home / "commands").mkdir()
    shutil.copy(work / "package/usr/bin/twofold", home / "commands/twofold")
    run([find("fsck.erofs"), f"--extract={work / 'system'}", system.path("system")], timeout=_SECONDS)
    _compile(home, work / "system")
    run([find("mkfs.erofs"), "--quiet", "-T0", "-x-1", "--all-root", work / "disk", home], timeout=_SECONDS)
    return work / "disk"


def _compile(home: Path, root: Path) -> None:
    """Python would else read every source anew at each start: the disk is read-only."""
    translator = emulator(Arch.ARM64)
    python: list[str | Path] = (
        [translator, "-L", root, root / "usr/bin/python3"] if translator else ["/usr/bin/python3"]
    )
    words = ["-IS", "-m", "compileall", "-q", "-f", "-s", str(home), "-p", f"/{_HOME}"]
    words += ["--invalidation-mode", "unchecked-hash", str(home / "lib")]
    run([*python, *words], timeout=_SECONDS, env={"PYTHONHOME": str(root / "usr")}, check=False)


if __name__ == "__main__":  # all that a phone with Work on it is started from
    from phone.build import handset
    from twofold.image.build import build

    build(TREE / "recipes/business", Arch.ARM64, cache())
    print(software(handset()))  # noqa: T201 - this is the command's own voice
