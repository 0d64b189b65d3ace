"""The business image for tests: from the build cache, built where it is not there yet."""

from __future__ import annotations

import os
from pathlib import Path

from twofold.image.build import Built, build
from twofold.model.image import Arch
from twofold.platform.dirs import dirs

_RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "business"


def business(arch: Arch = Arch.AMD64) -> Built:
    return build(_RECIPE, arch, Path(os.environ.get("TWOFOLD_BUILDS") or dirs().cache))
