"""Writing an image version into a folder that anybody may carry (`image.stick` says what lies there)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from twofold import _core
from twofold.image.catalogue import Catalogue
from twofold.image.fetch import Fetched, Source, fetch
from twofold.image.sealed import unseal
from twofold.image.stick import CHUNKS
from twofold.model.errors import DamagedError
from twofold.model.progress import Progress, silent
from twofold.trust.publisher import Publisher


class Office(Source, Protocol):
    """What an export needs of a server beside roles (`twofold.server.client.Admin`)."""

    def index(self, image: str, version: int) -> bytes: ...


def export(
    publisher: Publisher,
    catalogue: Catalogue,
    office: Office,
    image: str,
    version: int,
    to: Path,
    progress: Progress = silent,
) -> Fetched:
    """Write a version into the folder `to`; several may share one, and an interrupted export goes on where it was.

    Raises:
        NotFoundError: there is no such version. DamagedError: the server sent another index or chunk.
        NoRoomError: the folder's disk is full.
    """
    release, untrusted_sealed = catalogue.release(image, version), office.index(image, version)
    if hashlib.sha256(untrusted_sealed).hexdigest() != release.sha256:
        raise DamagedError(f"The server's index of {image} version {version} is not the one that was published.")
    sealed = untrusted_sealed
    index = unseal(sealed, publisher.reading, image, version)
    to.mkdir(parents=True, exist_ok=True)
    done = fetch(index.objects, office, to / CHUNKS, progress)
    for name in ("root", "targets"):
        (to / f"{image}-{version}.{name}.json").write_bytes(publisher.kept(name) or b"")
    (to / f"{image}-{version}.index").write_bytes(sealed)
    _core.sync(to)
    return done
