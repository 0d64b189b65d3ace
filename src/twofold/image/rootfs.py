"""The root tree: mmdebstrap in one go, from packages to a packed file system, as root or as an ordinary user.

A tree for a processor that is not this machine's is unpacked and then arranged by `unpacked.py`: no maintainer script runs.
"""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections import deque
from pathlib import Path

from twofold.image import unpacked
from twofold.image.recipe import Recipe
from twofold.model.errors import MissingError
from twofold.model.image import Arch
from twofold.model.progress import Progress
from twofold.platform.run import CommandError, environment, find, replayable, run, spawn

_UUID = "7766f01d-0000-4000-8000-000000000001"  # a constant: the same bytes from the same tree
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NEW = re.compile(r"(\d+) newly installed")
# Folders that mmdebstrap mounts or that hold our own tools while it works; they are in the image, empty.
_TRANSLATOR = "./twofold-build/qemu"
_EMPTY = r"^(dev|proc|sys|run|tmp|twofold-build)/.*|^twofold-build$"


def sources(suite: str) -> list[str]:
    """APT source lines for `suite`, from the mirrors that this machine uses itself.

    Raises:
        MissingError: the machine has no Debian mirror in its configuration.
    """
    facts = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.M))
    here = facts.get("VERSION_CODENAME", "")
    asked = run(["apt-get", "indextargets", "--format", "$(REPO_URI)\t$(CODENAME)\t$(ORIGIN)"]).stdout.decode()
    rows = [row.split("\t") for row in asked.splitlines() if row.count("\t") == 2]
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    found: list[str] = []
    for ours, theirs in ((here, suite), (f"{here}-security", f"{suite}-security")):
        uri = next((uri for uri, code, origin in rows if code == ours and origin == "Debian"), None)
        if uri:
            found.append(f"deb {signed}{uri} {theirs} main")
    if not found:
        raise MissingError(
            "This machine's package configuration names no Debian mirror to build an image from.",
            next="Build on Debian 12 or 13, with its own mirror in /etc/apt/sources.list.d, after 'apt-get update'.",
        )
    return found


def emulator(arch: Arch) -> Path | None:
    """The program that translates `arch`'s programs here, or None where this machine runs them itself.

    Raises:
        MissingError: it is needed and not installed.
    """
    name = {Arch.AMD64: "x86_64", Arch.ARM64: "aarch64"}[arch]
    if platform.machine() == name:
        return None
    found = shutil.which(f"qemu-{name}-static") or shutil.which(f"qemu-{name}")
    if found is None:
        raise MissingError(
            f"This machine cannot run {arch} programs, which building its image needs.",
            next="Install qemu-user-static (Debian 13: qemu-user), or build on a machine of that kind.",
        )
    return Path(found)


def stage(recipe: Recipe, guest: Path, translator: Path | None = None) -> bytes:
    """A tar of what we add to the tree: the overlay, the guest's code, the recipe's own tools; owned by root, times 0."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(path: Path, name: str) -> None:
            member = tarfile.TarInfo(name)
            member.mode = 0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644
            if path.is_dir():
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
                return
            body = path.read_bytes()
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))

        overlay = recipe.folder / "overlay"
        for path in sorted(overlay.rglob("*")):
            add(path, f"./{path.relative_to(overlay)}")
        add(guest, "./usr/lib/twofold/twofold")
        empty = tarfile.TarInfo("./usr/lib/twofold/twofold/__init__.py")
        empty.mode = 0o644
        tar.addfile(empty)
        add(guest, "./usr/lib/twofold/twofold/guest")
        for path in sorted(guest.glob("*.py")):
            add(path, f"./usr/lib/twofold/twofold/guest/{path.name}")
        add(recipe.folder, "./twofold-build")
        add(recipe.folder / "recipe.toml", "./twofold-build/recipe.toml")
        add(recipe.folder / "customise.py", "./twofold-build/customise.py")
        if translator:
            add(Path(unpacked.__file__), "./twofold-build/unpacked.py")
            add(translator, _TRANSLATOR)
    return out.getvalue()


def mode() -> str:
    """How mmdebstrap may work here: `root`, or `unshare` for an ordinary user.

    Raises:
        MissingError: an ordinary user on a system that gives them no user namespace.
    """
    if os.geteuid() == 0:
        return "root"
    probe = run(["unshare", "--user", "--map-root-user", "true"], check=False)
    user = environment().get("USER") or run(["id", "-un"]).stdout.decode().strip()
    ranges = Path("/etc/subuid").read_text() if Path("/etc/subuid").exists() else ""
    if probe.returncode != 0 or not re.search(rf"^({re.escape(user)}|{os.geteuid()}):", ranges, re.M):
        raise MissingError(
            "This user may not make the user namespaces that building an image needs.",
            safe="Nothing was built.",
            next="Build as root, or give the user a range:  sudo usermod --add-subuids 200000-265535 "
            f"--add-subgids 200000-265535 {user}",
        )
    return "unshare"


def build(recipe: Recipe, guest: Path, arch: Arch, work: Path, progress: Progress) -> None:
    """Build the tree and leave in `work`: system.erofs, vmlinuz, busybox, apps.json, modules/.

    Raises:
        MissingError: a tool or a permission is not there. CommandError: mmdebstrap failed; nothing outside `work` changed.
    """
    for tool in ("mmdebstrap", "mkfs.erofs", "depmod"):
        find(tool)
    translator = emulator(arch)
    how = mode()
    (work / "stage.tar").write_bytes(stage(recipe, guest, translator))
    # Only unpacked, nothing is there that no package asks for, not even what is essential.
    variant = ["--variant=extract", "--include=?essential"] if translator else ["--variant=minbase"]
    hook = "--extract-hook" if translator else "--customize-hook"
    arrange = f'{sys.executable} -IS "$1/twofold-build/customise.py" "$1"{" " + _TRANSLATOR[1:] if translator else ""}'
    packed = '"$1/twofold-build/out/system.erofs"'
    erofs = f'mkfs.erofs --quiet -T0 -x-1 -U{_UUID} --exclude-regex="{_EMPTY}" {packed} "$1" >/dev/null'
    argv = [
        "mmdebstrap", f"--arch={arch.value}", *variant, f"--mode={how}", "--format=null", "--verbose",
        '--aptopt=APT::Install-Recommends "false"', "--dpkgopt=force-unsafe-io", "--skip=cleanup,check/empty",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.exclude),
        f"--include={','.join(recipe.packages)}",
        f"{hook}=tar-in {work}/stage.tar /",
        f"{hook}={arrange}",
        f"{hook}={erofs}",
        *(f"{hook}=download /twofold-build/out/{name} {work}/{name}"
          for name in ("system.erofs", "vmlinuz", "busybox", "apps.json")),
        f"{hook}=sync-out /twofold-build/out/modules {work}/modules",
        recipe.suite, "/dev/null", *sources(recipe.suite),
    ]  # fmt: skip
    # Ours is the only initramfs; the date is a constant so that what packages stamp into files stays the same.
    env = {"INITRD": "No", "SOURCE_DATE_EPOCH": "1700000000", "TMPDIR": str(work), "DEBIAN_FRONTEND": "noninteractive"}
    if how == "unshare":
        del env["TMPDIR"]  # the namespace's users cannot reach into a private folder
    (work / "modules").mkdir()
    with spawn(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        try:
            tail = _follow(child, progress)
        except BaseException:
            child.terminate()
            raise
    if child.returncode != 0:
        raise CommandError(replayable(argv, env), child.returncode, "\n".join(tail))


def _follow(child: subprocess.Popen[bytes], progress: Progress) -> deque[str]:
    """Turn mmdebstrap's words into progress; returns its last lines."""
    tail: deque[str] = deque(maxlen=40)
    done = total = 0
    step = "Reading the package lists"
    assert child.stderr is not None
    for raw in child.stderr:
        line = raw.decode(errors="replace").rstrip()
        tail.append(line)
        if new := _NEW.search(line):
            total += 2 * int(new[1])  # each is unpacked and set up
            step = "Fetching packages"
        elif line.startswith(("Unpacking ", "Setting up ", "Get:")):
            done += not line.startswith("Get:")
            step = {"U": "Unpacking packages", "S": "Setting up packages"}.get(line[0], step)
        elif "extracting archives" in line:
            step = "Unpacking packages"
        elif line.startswith("twofold: "):
            step = f"Arranging the system ({line.removeprefix('twofold: ')})"
        elif "mkfs.erofs" in line:
            step = "Packing the system disk"
        progress(step, min(done, total), total)
    return tail
