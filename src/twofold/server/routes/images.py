"""Publishers, chunks and image versions."""

from __future__ import annotations

import json
import time
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from sqlalchemy import func, insert, select

from twofold import _core
from twofold.image.chunks import ImageIndex
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError
from twofold.model.names import slug
from twofold.server import audit
from twofold.server.bodies import Ids, NewPublisher, Signed
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.tables import Image, Publisher, Version, VersionChunk
from twofold.trust.keys import VerifyKey
from twofold.trust.signed import Context, verify_by

router = APIRouter(tags=["images"])


@router.get("/publishers")
def list_publishers(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        rows = session.scalars(select(Publisher).order_by(Publisher.created))
        return {"publishers": [{"key": row.key, "public": row.public, "created": row.created} for row in rows]}


@router.post("/publishers", status_code=201)
def add_publisher(body: NewPublisher, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Take images of this key, and let devices enrolled from now on pin it."""
    key = VerifyKey.from_hex(body.public)
    with server.database.write() as session:
        if session.get(Publisher, key.id) is None:
            session.add(Publisher(key=key.id, public=body.public, created=int(time.time())))
            audit.record(session, caller.actor, "trust publisher", key.id)
    return {"key": key.id}


@router.post("/chunks/missing")
def missing(body: Ids, server: TheServer) -> dict[str, Any]:
    """Which of these chunks are not here."""
    wanted = [(bytes.fromhex(chunk), None) for chunk in body.ids]
    return {"missing": [chunk.hex() for chunk in _core.lacking(server.home.objects, wanted)]}


@router.post("/chunks", openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}, "required": True}})
async def upload(request: Request, server: TheServer) -> dict[str, Any]:
    """Chunks as frames: id (32 bytes), length (4, little endian), bytes. All are verified before one is kept."""
    untrusted_frames = await request.body()
    try:
        return {"stored": await run_sync(_core.store_frames, server.home.objects, untrusted_frames)}
    except ValueError as off:
        raise BadInputError(f"The chunks were refused: {off}.", safe="None of them was kept.") from off


@router.get("/images")
def list_images(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        last = select(func.max(Version.id)).group_by(Version.image_id)  # versions only grow, and ids with them
        rows = session.scalars(select(Version).join(Image).where(Version.id.in_(last)).order_by(Image.name))
        return {
            "images": [
                {"name": row.image.name, "version": row.version, "bytes": row.bytes, "published": row.published}
                for row in rows
            ]
        }


@router.get("/images/{name}")
def newest(name: str, server: TheServer) -> dict[str, Any]:
    """An image's newest version and its manifest; version 0 where there is none."""
    image = slug(name, "an image")
    with server.database.read() as session:
        found = session.scalar(
            select(Version).join(Image).where(Image.name == image).order_by(Version.version.desc()).limit(1)
        )
        if found is None:
            return {"version": 0, "manifest": None}
        return {"version": found.version, "manifest": json.loads(found.manifest)}


@router.get("/images/{name}/versions/{version}")
def document(name: str, version: int, server: TheServer) -> dict[str, Any]:
    """A version's signed index, as it was committed."""
    with server.database.read() as session:
        found = session.scalar(
            select(Version.document).join(Image).where(Image.name == name, Version.version == version)
        )
        if found is None:
            raise nothing("version")
        signed: dict[str, Any] = json.loads(found)
        return signed


@router.post("/images/{name}/versions", status_code=201)
def commit(name: str, body: Signed, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Make a signed index the image's next version. Its chunks must all be here; versions only grow."""
    image_name, signed = slug(name, "an image"), body.model_dump()
    with server.database.read() as session:
        keys = [VerifyKey.from_hex(row.public) for row in session.scalars(select(Publisher))]
    signer, document = verify_by(Context.IMAGE, signed, keys)
    index = ImageIndex.from_wire(document)
    manifest, ids = index.manifest, index.ids
    if manifest.image != image_name:
        raise BadInputError(
            f"The signed index is of {manifest.image}, not of {image_name}.", safe="Nothing was changed."
        )
    lacking = _core.lacking(server.home.objects, list(ids.items()))
    if lacking:
        raise ConflictError(
            f"{len(lacking)} of the image's chunks are not here.", next="Publish again: it sends these alone."
        )
    _core.sync(server.home.objects)
    with server.database.write() as session:
        image = session.scalar(select(Image).where(Image.name == image_name))
        if image is None:
            image = Image(name=image_name)
            session.add(image)
            session.flush()
        last = session.scalar(select(func.max(Version.version)).where(Version.image_id == image.id)) or 0
        if manifest.version != last + 1:
            raise ConflictError(
                f"{image_name} is at version {last}; version {manifest.version} cannot follow it.",
                safe="Nothing was changed.",
                next="Publish again: it takes the next version.",
            )
        version = Version(
            image_id=image.id, version=manifest.version, document=canonical(signed).decode(), publisher=signer.id,
            manifest=canonical(manifest.to_wire()).decode(), bytes=sum(ids.values()), published=int(time.time()),
        )  # fmt: skip
        session.add(version)
        session.flush()
        if ids:
            session.execute(insert(VersionChunk), [{"version_id": version.id, "chunk": chunk} for chunk in ids])
        audit.record(session, caller.actor, "publish", f"{image_name} {manifest.version} by {signer.id[:16]}")
    return {"version": manifest.version}
