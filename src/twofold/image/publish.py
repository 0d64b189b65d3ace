"""From a build folder to a published version: cut, seal, upload what the server lacks, sign, commit."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from twofold import _core
from twofold.image import patches
from twofold.image.catalogue import Catalogue
from twofold.image.chunks import Chunk, ImageIndex, Range, ranges
from twofold.image.firstboot import carried, edges, level
from twofold.image.sealed import seal, unseal
from twofold.model.errors import BadInputError, ConflictError, DamagedError
from twofold.model.image import ImageVersion
from twofold.model.progress import Progress, silent
from twofold.model.release import EVERYBODY, Release, Variant
from twofold.trust.publisher import Publisher

_BATCH = 16 << 20  # plaintext bytes sealed at once: enough to keep two threads busy, little enough to hold a few times
_WAYS = 2  # batches on their way together: while the server keeps one, it hears the next
_ASKED = 8192  # ids in one question, as many as the server takes


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
    def index(self, image: str, version: int, arch: str = "") -> bytes: ...
    def missing(self, ids: Sequence[bytes]) -> list[bytes]: ...
    def upload(self, frames: bytes) -> None: ...
    def chunks(self, ids: Sequence[bytes]) -> bytes: ...
    def commit(self, image: str, version: dict[str, Any]) -> None: ...
    def extend(self, image: str, version: int, more: dict[str, Any]) -> None: ...


Noted: TypeAlias = tuple[Built, object]
"""A build, and what a start of it was seen to read (as `disk touched` prints it), or None."""


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


class _LostError(Exception):
    """The server lacks a chunk that a former version of the image has, so that it was not sealed again."""


def publish(
    builds: Sequence[Noted],
    publisher: Publisher,
    target: Target,
    progress: Progress = silent,
    share: int = EVERYBODY,
) -> Published:
    """Publish builds of one image, each for another architecture, as its next version, for `share` percent of the devices (0: for
    nobody yet). Interrupted at any point, the next call sends only what is missing; builds that are in the newest version already
    are not published again.

    Without a record of a start, the former version's of that architecture is carried over; with one, chunks are cut for its sake.
    A version is cut as its predecessor was wherever it has the same content.

    Raises:
        BadInputError: a record is not that, or of another image; or the builds do not belong together.
        DamagedError: a part is not what its manifest says; nothing is committed.
        RefusedError: the server has another publisher's root. ConflictError: another publisher was faster.
    """
    image = _one_image([built.manifest for built, _ in builds])
    catalogue = Catalogue(publisher, target)
    newest = target.newest(image)
    version = int(newest["version"])
    found = [each for each in catalogue.releases if (each.image, each.version) == (image, version)]
    work = _Making(publisher, target, progress, sum(part.size for built, _ in builds for part in built.manifest.parts))
    formers = {built.manifest.arch: work.former(found, built.manifest) for built, _ in builds}
    noted = {built.manifest.arch: None if said is None else ranges(said, built.manifest) for built, said in builds}
    news = any(
        said is not None and ((former := formers[arch]) is None or former.first_boot != said)
        for arch, said in noted.items()
    )
    there = [dataclasses.replace(built.manifest, version=version).to_wire() for built, _ in builds]
    if found and not news and all(each in _manifests(newest) for each in there):
        return Published(image, version, fresh=False, size=work.total, data=0, stored=0, sent=0)
    made = [
        work.index(built, version + 1, formers[built.manifest.arch], noted[built.manifest.arch]) for built, _ in builds
    ]
    sealed = {each.manifest.arch: seal(each, publisher.reading) for each in made}
    release = _release(image, version + 1, {str(arch): _variant(body) for arch, body in sealed.items()})
    targets = catalogue.signed(catalogue.with_new(release, share))
    own, *others = sorted(
        (_sent(each, sealed[each.manifest.arch]) for each in made), key=lambda row: _rank(row, release)
    )
    target.commit(image, own | ({"others": others} if others else {}) | {"targets": base64.b64encode(targets).decode()})
    catalogue.sent(targets)
    return work.published(image, version + 1, made)


def extend(
    built: Built, first_boot: object, publisher: Publisher, target: Target, version: int, progress: Progress = silent
) -> Published:
    """Add a build for another architecture to a version that nobody runs yet.

    Raises:
        ConflictError: it is on a channel, or has this architecture already. The rest as `publish`.
    """
    manifest, catalogue = built.manifest, Catalogue(publisher, target)
    release = catalogue.release(manifest.image, version)
    if release.channels:
        raise ConflictError(
            f"Version {version} of {manifest.image} is on channel {', '.join(sorted(release.channels))}.",
            safe="Nothing was changed.",
            next="Publish all builds as the next version:  twofold image publish FOLDER FOLDER",
        )
    work = _Making(publisher, target, progress, sum(part.size for part in manifest.parts))
    there = {each: work.opened(release, each) for each in release.archs or ("",)}
    if manifest.arch in {index.manifest.arch for index in there.values()}:
        raise ConflictError(
            f"Version {version} of {manifest.image} has {manifest.arch} already.", safe="Nothing was changed."
        )
    _one_image([*(index.manifest for index in there.values()), manifest])
    for index in there.values():
        work.know(index)
    index = work.index(built, version, None, None if first_boot is None else ranges(first_boot, manifest))
    sealed = seal(index, publisher.reading)
    variants = {str(index.manifest.arch): found for arch, index in there.items() if (found := release.variant(arch))}
    longer = _release(manifest.image, version, variants | {manifest.arch: _variant(sealed)})
    targets = catalogue.signed([longer if each.path == longer.path else each for each in catalogue.releases])
    target.extend(
        manifest.image,
        version,
        {"others": [_sent(index, sealed)], "targets": base64.b64encode(targets).decode()},
    )
    catalogue.sent(targets)
    return work.published(manifest.image, version, [index])


def _one_image(manifests: Sequence[ImageVersion]) -> str:
    """Devices of several architectures share one user's disk, so that it must be the same disk.

    Raises:
        BadInputError: two images, one architecture twice, or other disks.
    """
    first, *others = manifests
    archs = [each.arch for each in manifests]
    if any(each.image != first.image for each in others) or len(set(archs)) != len(archs):
        raise BadInputError(
            "A version has one build for each architecture, all of one image; these are "
            + ", ".join(f"{each.image} for {each.arch}" for each in manifests) + ".",
            safe="Nothing was published.",
        )  # fmt: skip
    if any(_shape(each) != _shape(first) for each in others):
        raise BadInputError(
            f"The builds of {first.image} have not the same disks, so that no user's disk could go from one to the other.",
            safe="Nothing was published.",
            next="Build both from one recipe.",
        )
    return first.image


def _shape(image: ImageVersion) -> tuple[object, ...]:
    template = image.part("user-template")
    return image.mode, image.user_disk_size, template.size if template else 0


def _manifests(newest: Mapping[str, Any]) -> list[Any]:
    """A server of version 0.1 says only the one that it knows."""
    return list(newest.get("manifests", {}).values()) or [newest["manifest"]]


def _variant(sealed: bytes) -> Variant:
    return Variant(len(sealed), hashlib.sha256(sealed).hexdigest())


def _release(image: str, version: int, variants: Mapping[str, Variant]) -> Release:
    """On no channel. The target's path names amd64's index, or the only one: clients of version 0.1 know of no other."""
    own = "amd64" if "amd64" in variants else min(variants)
    others = {arch: each for arch, each in variants.items() if arch != own}
    return Release(image, version, variants[own].length, variants[own].sha256, {}, own, others)


def _sent(index: ImageIndex, sealed: bytes) -> dict[str, Any]:
    return {
        "manifest": index.manifest.to_wire(),
        "chunks": {chunk.hex(): stored for chunk, stored in index.objects.items()},
        "index": base64.b64encode(sealed).decode(),
    }


def _rank(sent: dict[str, Any], release: Release) -> tuple[bool, str]:
    arch = str(sent["manifest"]["arch"])
    return arch != release.arch, arch


class _Making:
    """One publishing: what was sealed before needs no sealing, and what was sent is counted."""

    def __init__(self, publisher: Publisher, target: Target, progress: Progress, total: int) -> None:
        self._publisher, self._target, self._progress, self.total = publisher, target, progress, total
        self._known: dict[bytes, tuple[bytes, bytes, int]] = {}
        self._before = self._sent = self._extra = 0

    def know(self, index: ImageIndex) -> None:
        for rows in index.chunks.values():
            self._known |= {row.id: (row.key, row.id, row.stored) for row in rows}

    def former(self, found: Sequence[Release], manifest: ImageVersion) -> ImageIndex | None:
        """The version before, for the same architecture; its chunks are known from here on."""
        for release in found:
            if release.variant(manifest.arch) is not None:
                with suppress(DamagedError):
                    index = self.opened(release, manifest.arch if release.arch else "")
                    self.know(index)
                    return index if index.manifest.arch == manifest.arch else None
        return None

    def opened(self, release: Release, arch: str) -> ImageIndex:
        """An index that this publisher signed. Raises: DamagedError: the server has another."""
        untrusted_sealed = self._target.index(release.image, release.version, "" if arch == release.arch else arch)
        signed = release.variant(arch)
        if signed is None or hashlib.sha256(untrusted_sealed).hexdigest() != signed.sha256:
            raise DamagedError(
                f"The server's index of {release.image} version {release.version} is not the one that was published.",
                safe="Nothing was published.",
            )
        return unseal(untrusted_sealed, self._publisher.reading, release.image, release.version)

    def index(
        self, built: Built, version: int, former: ImageIndex | None, noted: tuple[Range, ...] | None
    ) -> ImageIndex:
        manifest = dataclasses.replace(built.manifest, version=version)
        before, sent = self._before, self._sent
        try:
            tables = self._seal(built, manifest, list(self._known.values()), noted or (), former)
        except _LostError:
            self._before, self._sent = before, sent
            tables = self._seal(built, manifest, [], noted or (), former)
        index = ImageIndex(manifest, tables, noted or ())
        if noted is None and former is not None:
            index = dataclasses.replace(index, first_boot=carried(former, index))
        self.know(index)
        if former is not None:
            files = {part.name: built.path(part.name) for part in manifest.parts}
            patched = patches.make(index, former, files, self._target)
            if patched.patches:
                self._target.upload(patched.frames)
                index = dataclasses.replace(index, patches=patched.patches)
                self._extra += sum(patch.stored for patch in index.patches)
        return index

    def published(self, image: str, version: int, made: Sequence[ImageIndex]) -> Published:
        data = sum(row.size for index in made for rows in index.chunks.values() for row in rows)
        stored = sum({chunk: size for index in made for chunk, size in index.ids.items()}.values())
        return Published(
            image, version, fresh=True, size=self.total, data=data, stored=stored, sent=self._sent + self._extra
        )

    def _seal(
        self,
        built: Built,
        manifest: ImageVersion,
        known: list[tuple[bytes, bytes, int]],
        noted: Sequence[Range],
        former: ImageIndex | None,
    ) -> dict[str, tuple[Chunk, ...]]:
        tables: dict[str, tuple[Chunk, ...]] = {}
        asked: set[bytes] = set()
        own = {chunk for _, chunk, _ in known}
        with ThreadPoolExecutor(1) as sealing, ThreadPoolExecutor(_WAYS) as sending:
            for part in manifest.parts:
                path = built.path(part.name)
                guide = edges(noted, part.name, part.size), former.chunks.get(part.name, ()) if former else ()
                sealer = _core.Sealer(path, self._publisher.secret, known, *guide, level(part.name))
                rows: list[Chunk] = []
                ways: deque[tuple[Future[int], int]] = deque()
                ahead = sealing.submit(sealer.next, _BATCH)
                while (batch := ahead.result()) is not None or ways:
                    if batch is not None:
                        ahead = sealing.submit(sealer.next, _BATCH)  # the next is sealed while these are on their way
                        found = [Chunk(*row) for row in batch.rows]
                        rows += found
                        new = {row.id: row.stored for row in found if row.id not in asked and row.id not in own}
                        asked.update(row.id for row in found)
                        ways.append((sending.submit(_send, batch, new, self._target), batch.end))
                    if batch is None or len(ways) > _WAYS:
                        way, end = ways.popleft()
                        self._sent += way.result()
                        self._progress("publish", self._before + end, self.total)
                if sealer.sha256.hex() != part.sha256 or path.stat().st_size != part.size:
                    raise DamagedError(
                        f"{path} is not what the image's manifest says.",
                        safe="Nothing was published.",
                        next="Build it again.",
                    )
                tables[part.name] = tuple(rows)
                self._before += part.size
        held = sorted(asked & own)  # of versions that are there: asked for at the end, many at once
        for at in range(0, len(held), _ASKED):
            if self._target.missing(held[at : at + _ASKED]):
                raise _LostError
        return tables


def _send(batch: _core.Batch, sizes: Mapping[bytes, int], target: Target) -> int:
    if not sizes:
        return 0
    missing = target.missing(list(sizes))
    if missing:
        target.upload(batch.frames(missing))
    return sum(sizes[chunk] for chunk in missing)
