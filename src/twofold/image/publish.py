"""From a build folder to a published version: cut, seal, upload what the server lacks, sign, commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from twofold.model.image import ImageVersion

_BATCH = 16 << 20  # plaintext bytes sealed at once: enough to keep two threads busy, little enough to hold twice


class Built(Protocol):
    """An image as it was built: its manifest (whose `version` is the server's to say) and a file for each part."""

    @property
    def manifest(self) -> ImageVersion: ...

    def path(self, part: str) -> Path: ...


class Target(Protocol):
    """What publishing needs of a server (`twofold.server.client.Admin`)."""

    def newest(self, image: str) -> dict[str, Any]: ...
    def missing(self, ids: Sequence[bytes]) -> list[bytes]: ...
    def upload(self, frames: bytes) -> None: ...
    def commit(self, image: str, document: dict[str, Any]) -> None: ...


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
