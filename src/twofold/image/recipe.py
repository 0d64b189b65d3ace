"""Recipes: a folder that says what an image is made of, and the digest that stands for all of it."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.model.errors import BadInputError, NotFoundError
from twofold.model.image import Arch, SystemMode
from twofold.model.names import slug

BUILDER = "3"  # grows when the same recipe gives other bytes


@dataclass(frozen=True)
class Recipe:
    """A read recipe. `folder` holds recipe.toml, customise.py, init and overlay/."""

    folder: Path
    name: str
    suite: str
    mode: SystemMode
    user_disk_size: int
    cmdline: str
    packages: tuple[str, ...]
    exclude: tuple[str, ...]
    initrd: dict[str, tuple[str, ...]]


def read(folder: Path, arch: Arch) -> Recipe:
    """Read a recipe for one architecture.

    Raises:
        NotFoundError: no recipe there. BadInputError: it cannot be understood.
    """
    try:
        text = (folder / "recipe.toml").read_text()
    except OSError as why:
        raise NotFoundError(f"There is no recipe at {folder}: {why.strerror}.") from why
    try:
        data: dict[str, Any] = tomllib.loads(text)
        return Recipe(
            folder=folder,
            name=slug(data["name"], "an image"),
            suite=slug(data["suite"], "a Debian suite"),
            mode=SystemMode(data["mode"]),
            user_disk_size=int(data["user_disk_size"]),
            cmdline=str(data["cmdline"]),
            packages=(data["kernel"][arch.value], *data["packages"]),
            exclude=tuple(data["exclude"]),
            initrd={key.removeprefix("initrd_modules").strip("_") or "first": tuple(value)
                    for key, value in data.items() if key.startswith("initrd_modules")},
        )  # fmt: skip
    except (tomllib.TOMLDecodeError, KeyError, ValueError, TypeError) as why:
        raise BadInputError(
            f"The recipe at {folder} cannot be understood: {why}.", next="Mend recipe.toml and build again."
        ) from why


def digest(folder: Path, guest: Path) -> str:
    """Hex SHA-256 over every file of the recipe and of the guest's code: names, modes that matter, bytes."""
    total = hashlib.sha256()
    for label, root in (("recipe", folder), ("guest", guest)):
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                executable = bool(path.stat().st_mode & 0o100)
                body = hashlib.sha256(path.read_bytes()).hexdigest()
                total.update(f"{label}/{path.relative_to(root)} {executable:d} {body}\n".encode())
    return total.hexdigest()


def key(folder: Path, guest: Path, recipe: Recipe, arch: Arch, arranger: Path | None = None) -> str:
    """The name of a build: same key, same inputs (packages' versions apart, which the suite decides). `arranger` is the file that
    stands in for maintainer scripts, where it does."""
    whole = f"{BUILDER} {arch.value} {recipe.suite} {digest(folder, guest)}"
    if arranger is not None:
        whole += f" {hashlib.sha256(arranger.read_bytes()).hexdigest()}"
    return hashlib.sha256(whole.encode()).hexdigest()[:32]
