"""A company on a server of tests: two people, an image, a grant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.unit.image_kit import Maker
from tests.unit.server_kit import Backend, Local
from twofold import _core
from twofold.image.chunks import Chunk, ImageIndex
from twofold.model.image import Arch, Firmware, ImageVersion, Part, SystemMode
from twofold.trust.https import API
from twofold.trust.keys import SigningKey

MAKER = Maker(SigningKey.make(), SigningKey.make())


def index(folder: Path, version: int, filling: bytes = b"plain") -> tuple[ImageIndex, bytes]:
    """A real image of one small part, sealed; and its frames."""
    plain = folder / "part"
    plain.write_bytes(filling * 5000)
    sealer = _core.Sealer(plain, b"s" * 32)
    batch = sealer.next(1 << 20)
    assert batch is not None
    rows = tuple(Chunk(*row) for row in batch.rows)
    part = Part("system", 5000 * len(filling), "0" * 64)
    manifest = ImageVersion("office", version, Arch.AMD64, Firmware.DIRECT, SystemMode.STATELESS, (part,))
    return ImageIndex(manifest, {"system": rows}), batch.frames([row.id for row in rows])


def upload(server: Local, frames: bytes) -> int:
    headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/octet-stream"}
    return server.raw("POST", f"{API}/chunks", frames, headers).status_code


def company(backend: Backend, folder: Path, objects: str = "") -> Local:
    """A server with two users, an image and a grant of Ada's."""
    local = backend.make(folder / "home", objects)
    local.call("POST", "users", {"name": "ada", "password": "ada ada ada ada"})
    local.call("POST", "users", {"name": "bob", "password": "bob bob bob bob"})
    MAKER.begin(local)
    made, frames = index(folder, 1)
    assert upload(local, frames) == 200
    assert local.call("POST", "images/office/versions", MAKER.version(made, 1)).status_code == 201
    assert grant(local).status_code == 201
    return local


def grant(server: Local, **changes: object) -> Any:
    body = {"user": "ada", "image": "office", "workspace": "work", "title": "ACME", "colour": "green", "policy": {}}
    return server.call("POST", "grants", body | changes)
