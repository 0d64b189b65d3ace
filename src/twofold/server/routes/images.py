"""Roles, chunks and image versions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError
from twofold.model.image import ImageVersion
from twofold.model.names import slug
from twofold.model.release import MAX_INDEX, Release
from twofold.server import audit, roles
from twofold.server.bodies import Document, Empty, FewIds, Halt, Ids, NewVersion
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.objects import lost
from twofold.server.tables import Image, Index, Publisher, Rollout, Start, Version, VersionChunk
from twofold.trust import roles as documents

router = APIRouter(tags=["images"])


@router.get("/publishers")
def list_publishers(server: TheServer) -> dict[str, Any]:
    """The keys that sign or signed targets."""
    with server.database.read() as session:
        rows = session.scalars(select(Publisher).order_by(Publisher.created))
        return {"publishers": [{"key": row.key, "public": row.public, "created": row.created} for row in rows]}


@router.get("/roles")
def show_roles(server: TheServer) -> dict[str, Any]:
    """This server's newest key for snapshot and timestamp, and the newest root and targets (base64)."""
    with server.database.read() as session:
        held = {name: roles.document(session, name) for name in ("root", "targets")}
    shown = {name: None if body is None else base64.b64encode(body).decode() for name, body in held.items()}
    return {"server": roles.public(server.home).public.hex(), **shown}


@router.post("/roles/key", status_code=201)
def new_key(body: Empty, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Make this server another key for snapshot and timestamp; the next root has to name it."""
    made = roles.new_key(server.home)
    with server.database.write() as session:
        audit.record(session, caller.actor, "make roles key", made.id)
    return {"server": made.public.hex()}


@router.post("/roles/root", status_code=201)
def set_root(body: Document, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """The first root, or the next one: signed by enough keys of the former and of itself."""
    untrusted_root = _bytes(body.document)
    with server.database.write() as session:
        version = roles.set_root(session, server.home, untrusted_root)
        audit.record(session, caller.actor, "set root", f"number {version}")
    return {"version": version}


@router.post("/roles/targets", status_code=201)
def set_targets(body: Document, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """What is on which channel from now on: promote, roll out, go back, retire."""
    untrusted_targets = _bytes(body.document)
    with server.database.write() as session:
        found = roles.set_targets(session, server.home, untrusted_targets)
        audit.record(session, caller.actor, "set targets", f"number {found.version}")
    return {"version": found.version}


@router.post("/chunks/missing")
def missing(body: Ids, server: TheServer) -> dict[str, Any]:
    """Which of these chunks are not here."""
    wanted = [(bytes.fromhex(chunk), None) for chunk in body.ids]
    return {"missing": [chunk.hex() for chunk in server.objects.lacking(wanted)]}


@router.post("/chunks", openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}, "required": True}})
async def upload(request: Request, server: TheServer) -> dict[str, Any]:
    """Chunks as frames: id (32 bytes), length (4, little endian), bytes. All are verified before one is kept."""
    untrusted_frames = await request.body()
    try:
        return {"stored": await run_sync(server.objects.store_frames, untrusted_frames)}
    except ValueError as off:
        raise BadInputError(f"The chunks were refused: {off}.", safe="None of them was kept.") from off


@router.post("/chunks/read", response_class=Response)
def read_chunks(body: FewIds, server: TheServer) -> Response:
    """Sealed chunks as frames, for an administrator who carries them elsewhere."""
    ids = list(dict.fromkeys(bytes.fromhex(chunk) for chunk in body.ids))
    if server.objects.lacking([(chunk, None) for chunk in ids]):
        raise nothing("chunk")
    try:
        return Response(server.objects.read_frames(ids), media_type="application/octet-stream")
    except (OSError, ValueError) as off:
        raise lost(len(ids)) from off


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


@router.get("/images/{name}/versions")
def versions(name: str, server: TheServer) -> dict[str, Any]:
    """Every version, newest first: on which channels for what share of devices, and how its starts went there."""
    with server.database.read() as session:
        listed = {release.version: release for release in roles.releases(session) if release.image == name}
        rows = session.scalars(
            select(Version).join(Image).where(Image.name == name).order_by(Version.version.desc())
        ).all()
        if not rows:
            raise nothing("image")
        return {"versions": [_version(session, row, listed.get(row.version)) for row in rows]}


@router.get("/images/{name}/versions/{version}/index", response_class=Response)
def index(name: str, version: int, server: TheServer) -> Response:
    """A version's sealed index."""
    with server.database.read() as session:
        body = session.scalar(
            select(Index.body).join(Version).join(Image).where(Image.name == name, Version.version == version)
        )
    if body is None:
        raise nothing("version")
    return Response(body, media_type="application/octet-stream")


@router.post("/images/{name}/versions/{version}/halt")
def halt(name: str, version: int, body: Halt, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Stop a roll-out, or let it go on: who has not begun with this version stays with the one for everybody."""
    with server.database.write() as session:
        found = _find(session, name, version)
        row = session.get(Rollout, found.id) or Rollout(version_id=found.id)
        row.halted, row.why = (int(time.time()), f"by {caller.actor}") if body.halted else (0, "")
        session.add(row)
        audit.record(session, caller.actor, "halt" if body.halted else "resume roll-out", f"{name} {version}")
    return {}


@router.post("/images/{name}/versions", status_code=201)
def commit(name: str, body: NewVersion, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Make a sealed index the image's next version, named by the next targets. Its chunks must all be here."""
    image_name, manifest = slug(name, "an image"), ImageVersion.from_wire(body.manifest)
    sealed, ids = _bytes(body.index), {bytes.fromhex(chunk): stored for chunk, stored in body.chunks.items()}
    if manifest.image != image_name or not sealed or len(sealed) > MAX_INDEX:
        raise BadInputError(f"This is not a version of {image_name}.", safe="Nothing was changed.")
    lacking = server.objects.lacking(list(ids.items()))
    if lacking:
        raise ConflictError(
            f"{len(lacking)} of the image's chunks are not here.", next="Publish again: it sends these alone."
        )
    server.objects.sync()
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
        root, untrusted_targets = roles.document(session, "root"), _bytes(body.targets)
        signers = [] if root is None else documents.signers(untrusted_targets, root)
        if not signers:
            raise ConflictError("The list of images is not signed by the root's keys.", safe="Nothing was changed.")
        version = Version(
            image_id=image.id, version=manifest.version, sha256=hashlib.sha256(sealed).hexdigest(), publisher=signers[0].id,
            manifest=canonical(manifest.to_wire()).decode(), bytes=sum(ids.values()), published=int(time.time()),
        )  # fmt: skip
        session.add(version)
        session.flush()
        session.add(Index(version_id=version.id, body=sealed))
        if ids:
            session.execute(insert(VersionChunk), [{"version_id": version.id, "chunk": chunk} for chunk in ids])
        listed = {
            release.path: release for release in roles.set_targets(session, server.home, untrusted_targets).releases
        }
        mine = listed.get(f"{image_name}/{manifest.version}")
        if mine is None or (mine.sha256, mine.length) != (version.sha256, len(sealed)):
            raise BadInputError("The list of images does not name this version.", safe="Nothing was changed.")
        audit.record(session, caller.actor, "publish", f"{image_name} {manifest.version} by {signers[0].id[:16]}")
    return {"version": manifest.version}


def _version(session: Session, row: Version, release: Release | None) -> dict[str, Any]:
    stopped = session.get(Rollout, row.id)
    good, bad = (
        session.scalar(select(func.count()).select_from(Start).where(Start.version_id == row.id, Start.good == good))
        or 0
        for good in (True, False)
    )
    return {
        "version": row.version,
        "published": row.published,
        "bytes": row.bytes,
        "channels": {} if release is None else dict(release.channels),
        "retired": release is None,
        "halted": stopped.halted if stopped else 0,
        "why": stopped.why if stopped else "",
        "started": good,
        "failed": bad,
    }


def _find(session: Session, name: str, version: int) -> Version:
    found = session.scalar(select(Version).join(Image).where(Image.name == name, Version.version == version))
    if found is None:
        raise nothing("version")
    return found


def _bytes(untrusted_text: str) -> bytes:
    try:
        return base64.b64decode(untrusted_text, validate=True)
    except (binascii.Error, ValueError) as off:
        raise BadInputError("A document in the request is not base64.") from off
