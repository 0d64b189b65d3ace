"""What the phone is made of: its own system by recipes/handset, and Twofold on a disk of its own."""

from __future__ import annotations

import os
from pathlib import Path

from twofold.image.build import Built, build
from twofold.model.image import Arch
from twofold.platform.dirs import dirs

TREE = Path(__file__).resolve().parents[1]


def cache() -> Path:
    """Where builds are kept; root's are for everyone."""
    return Path(os.environ.get("TWOFOLD_BUILDS") or dirs().cache)


def handset() -> Built:
    """The phone's own system, from the cache or built now."""
    return build(TREE / "recipes/handset", Arch.ARM64, cache())


if __name__ == "__main__":
    print(handset().folder)  # noqa: T201 - this is the command's own voice
