"""A publisher without a network: what it would send for a version, and the documents that name it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from tests.unit.server_kit import Local
from twofold.image.chunks import ImageIndex
from twofold.image.sealed import seal
from twofold.model.release import Release
from twofold.trust import roles
from twofold.trust.keys import SigningKey, VerifyKey

READING = b"r" * 32


@dataclasses.dataclass(frozen=True)
class Maker:
    root: SigningKey
    targets: SigningKey

    def first_root(self, server: Local) -> bytes:
        online = VerifyKey.from_hex(server.call("GET", "roles").json()["server"])
        return roles.make_root(
            roles.Keys([self.root.verify_key]), roles.Keys([self.targets.verify_key]), roles.Keys([online]), [self.root]
        )

    def begin(self, server: Local) -> bytes:
        root = self.first_root(server)
        assert server.call("POST", "roles/root", {"document": encoded(root)}).status_code == 201
        return root

    def version(
        self, index: ImageIndex, number: int, others: Sequence[Release] = (), share: int = 100
    ) -> dict[str, Any]:
        """The body of a commit: the index, and the targets `number` that list it beside `others`."""
        sealed = seal(index, READING)
        release = release_of(index, sealed, share)
        targets = roles.make_targets(number, [*others, release], [self.targets])
        return {
            "manifest": index.manifest.to_wire(),
            "chunks": {chunk.hex(): stored for chunk, stored in index.ids.items()},
            "index": encoded(sealed),
            "targets": encoded(targets),
        }


def release_of(index: ImageIndex, sealed: bytes, share: int = 100) -> Release:
    channels = {"stable": share} if share else {}
    digest = hashlib.sha256(sealed).hexdigest()
    return Release(index.manifest.image, index.manifest.version, len(sealed), digest, channels)


def listed(body: dict[str, Any], share: int = 0) -> Release:
    """The release in a commit's body, on the stable channel for `share` percent."""
    sealed = base64.b64decode(body["index"])
    manifest = body["manifest"]
    channels = {"stable": share} if share else {}
    return Release(manifest["image"], manifest["version"], len(sealed), hashlib.sha256(sealed).hexdigest(), channels)


def encoded(document: bytes) -> str:
    return base64.b64encode(document).decode()
