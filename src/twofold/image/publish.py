"""From a build folder to a published version: cut, seal, upload what the server lacks, sign, commit."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twofold import _core
from twofold.image import patches
from twofold.image.catalogue import Catalogue
from twofold.image.chunks import Chunk, ImageIndex, Range, ranges
from twofold.image.sealed import seal, unseal
from twofold.model.errors import DamagedError
from twofold.model.image import ImageVersion
from twofold.model.progress import Progress, silent
from twofold.model.release import EVERYBODY, Release
from twofold.trust.publisher import Publisher

_BATCH = 16 << 20  # plaintext bytes sealed at once: enough to keep two threads busy, little enough to hold twice


class Built(Protocol):
    """An image as it was built: its manifest (whose `version` is the server's to say) and a file for each part."""

    @property
    def manifest(self) -> ImageVersion: ...

    def path(self, part: str) -> Path: ...


class Target(Protocol):
    """What publishing needs of a server (`twofold.server.client.Admin`)."""

    def roles(self) -> Mapping[str, Any]: ...
    def new_roles_key(self) -> str: ...
    def set_root(self, document: bytes) -> None: ...
    def set_targets(self, document: bytes) -> None: ...
    def newest(self, image: str) -> dict[str, Any]: ...
    def index(self, image: str, version: int) -> bytes: ...
    def missing(self, ids: Sequence[bytes]) -> list[bytes]: ...
    def upload(self, frames: bytes) -> None: ...
    def chunks(self, ids: Sequence[bytes]) -> bytes: ...
    def commit(self, image: str, version: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Published:
    """What became of it. `fresh` is False where the newest version was this very image. Bytes: `size` of all parts as built,
    `data` without holes, `stored` sealed (each chunk once), `sent` over the wire (before the server had them)."""

    image: str
    version: int
    fresh: bool
    size: int
    data: int
    stored: int
    sent: int


@dataclass(frozen=True)
class _Work:
    index: ImageIndex
    published: Published


class _LostError(Exception):
    """The server lacks a chunk that a former version of the image has, so that it was not sealed again."""


def publish(
    built: Built,
    publisher: Publisher,
    target: Target,
    progress: Progress = silent,
    share: int = EVERYBODY,
    first_boot: object = None,
) -> Published:
    """Publish `built` as the next version of its image, for `share` percent of the devices (0: for nobody yet). Interrupted at
    any point, the next call sends only what is missing; an image that is the newest version already is not published again.

    `first_boot` is what `disk touched` printed: what a start was seen to read, which devices fetch first. Without it, the former
    version's is taken as far as it fits.

    Raises:
        BadInputError: `first_boot` is not that, or of another image.
        DamagedError: a part is not what its manifest says; nothing is committed.
        RefusedError: the server has another publisher's root. ConflictError: another publisher was faster.
    """
    catalogue = Catalogue(publisher, target)
    newest = target.newest(built.manifest.image)
    version = int(newest["version"])
    listed = any(each.path == f"{built.manifest.image}/{version}" for each in catalogue.releases)
    noted = None if first_boot is None else ranges(first_boot, built.manifest)
    former = _former(target, publisher, catalogue, built.manifest.image, version) if listed else None
    news = noted is not None and (former is None or former.first_boot != noted)
    if listed and not news and newest["manifest"] == dataclasses.replace(built.manifest, version=version).to_wire():
        size = sum(part.size for part in built.manifest.parts)
        return Published(built.manifest.image, version, fresh=False, size=size, data=0, stored=0, sent=0)
    known = [(row.key, row.id, row.stored) for rows in (former.chunks if former else {}).values() for row in rows]
    manifest = dataclasses.replace(built.manifest, version=version + 1)
    try:
        work = _seal(built, manifest, known, publisher, target, progress)
    except _LostError:
        work = _seal(built, manifest, [], publisher, target, progress)
    if noted is None:
        noted = _fitting(former, manifest)
    index = dataclasses.replace(work.index, first_boot=noted)
    if former is not None:
        patched = patches.make(index, former, {part.name: built.path(part.name) for part in manifest.parts}, target)
        if patched.patches:
            target.upload(patched.frames)
            index = dataclasses.replace(index, patches=patched.patches)
    _commit(index, publisher, catalogue, target, share)
    extra = sum(patch.stored for patch in index.patches)
    return dataclasses.replace(work.published, sent=work.published.sent + extra)


def _fitting(former: ImageIndex | None, manifest: ImageVersion) -> tuple[Range, ...]:
    """The former version's ranges that this one has too: an image is laid out in a stable order, so most mean the same."""
    sizes = {part.name: part.size for part in manifest.parts}
    noted = former.first_boot if former else ()
    return tuple(each for each in noted if each[1] + each[2] <= sizes.get(each[0], 0))


def _former(target: Target, publisher: Publisher, catalogue: Catalogue, image: str, version: int) -> ImageIndex | None:
    """The version before, whose chunks need no sealing. Only what this publisher signed counts."""
    untrusted_sealed, release = target.index(image, version), catalogue.release(image, version)
    if hashlib.sha256(untrusted_sealed).hexdigest() != release.sha256:
        return None
    return unseal(untrusted_sealed, publisher.reading, image, version)


def _commit(index: ImageIndex, publisher: Publisher, catalogue: Catalogue, target: Target, share: int) -> None:
    sealed, manifest = seal(index, publisher.reading), index.manifest
    release = Release(manifest.image, manifest.version, len(sealed), hashlib.sha256(sealed).hexdigest(), {})
    targets = catalogue.signed(catalogue.with_new(release, share))
    version = {
        "manifest": manifest.to_wire(),
        "chunks": {chunk.hex(): stored for chunk, stored in index.objects.items()},
        "index": base64.b64encode(sealed).decode(),
        "targets": base64.b64encode(targets).decode(),
    }
    target.commit(manifest.image, version)
    catalogue.sent(targets)


def _seal(
    built: Built,
    manifest: ImageVersion,
    known: list[tuple[bytes, bytes, int]],
    publisher: Publisher,
    target: Target,
    progress: Progress,
) -> _Work:
    total, before, sent = sum(part.size for part in manifest.parts), 0, 0
    tables: dict[str, tuple[Chunk, ...]] = {}
    asked: set[bytes] = set()
    own = {chunk for _, chunk, _ in known}
    with ThreadPoolExecutor(2) as pool:
        for part in manifest.parts:
            path = built.path(part.name)
            digest = pool.submit(_digest, path)
            sealer = _core.Sealer(path, publisher.secret, known)
            rows: list[Chunk] = []
            ahead = pool.submit(sealer.next, _BATCH)
            while (batch := ahead.result()) is not None:
                ahead = pool.submit(sealer.next, _BATCH)  # the next is sealed while this one is on its way
                found = [Chunk(*row) for row in batch.rows]
                rows += found
                sent += _send(batch, found, asked, own, target)
                progress("publish", before + batch.end, total)
            if digest.result() != part.sha256 or path.stat().st_size != part.size:
                raise DamagedError(
                    f"{path} is not what the image's manifest says.",
                    safe="Nothing was published.",
                    next="Build it again.",
                )
            tables[part.name] = tuple(rows)
            before += part.size
    index = ImageIndex(manifest, tables)
    data = sum(row.size for rows in tables.values() for row in rows)
    stored = sum(index.ids.values())
    return _Work(
        index, Published(manifest.image, manifest.version, fresh=True, size=total, data=data, stored=stored, sent=sent)
    )


def _send(batch: _core.Batch, rows: list[Chunk], asked: set[bytes], own: set[bytes], target: Target) -> int:
    stored = {row.id: row.stored for row in rows if row.id not in asked}
    if not stored:
        return 0
    asked.update(stored)
    missing = target.missing(list(stored))
    if own.intersection(missing):
        raise _LostError
    if missing:
        target.upload(batch.frames(missing))
    return sum(stored[chunk] for chunk in missing)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
