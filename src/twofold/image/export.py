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
from twofold.model.release import Release, none_for
from twofold.trust.publisher import Publisher


class Office(Source, Protocol):
    """What an export needs of a server beside roles (`twofold.server.client.Admin`)."""

    def index(self, image: str, version: int, arch: str = "") -> bytes: ...


def export(
    publisher: Publisher,
    catalogue: Catalogue,
    office: Office,
    image: str,
    version: int,
    to: Path,
    progress: Progress = silent,
    arch: str = "",
) -> Fetched:
    """Write a version into the folder `to`, for all its architectures or for one; several versions may share a folder, and an
    interrupted export goes on where it was.

    Raises:
        NotFoundError: there is no such version. ConflictError: it has nothing for `arch`. DamagedError: the server sent another
        index or chunk. NoRoomError: the folder's disk is full.
    """
    release = catalogue.release(image, version)
    if arch and release.variant(arch) is None:
        raise none_for(image, version, arch, release.archs)
    indexes = {each: _sealed(release, office, each) for each in ([arch] if arch else release.archs or [""])}
    objects: dict[bytes, int] = {}
    for each, sealed in indexes.items():
        index = unseal(sealed, publisher.reading, image, version)
        if each and index.manifest.arch != each:
            raise none_for(image, version, each, [index.manifest.arch])
        objects |= index.objects
    to.mkdir(parents=True, exist_ok=True)
    done = fetch(objects, office, to / CHUNKS, progress)
    for name in ("root", "targets"):
        (to / f"{image}-{version}.{name}.json").write_bytes(publisher.kept(name) or b"")
    for each, sealed in indexes.items():
        (to / f"{image}-{version}{f'.{each}' if each not in (release.arch, '') else ''}.index").write_bytes(sealed)
    _core.sync(to)
    return done


def _sealed(release: Release, office: Office, arch: str) -> bytes:
    signed = release.variant(arch)
    assert signed is not None  # it was asked for by what the release says
    own = arch == release.arch or not release.arch
    untrusted_sealed = office.index(release.image, release.version, "" if own else arch)
    if hashlib.sha256(untrusted_sealed).hexdigest() != signed.sha256:
        raise DamagedError(
            f"The server's index of {release.image} version {release.version} is not the one that was published."
        )
    return untrusted_sealed
