"""Roles, chunks and image versions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
from twofold.server.bodies import Arch, Document, Empty, FewIds, Halt, Ids, MoreVariants, NewVariant, NewVersion
from twofold.server.context import Server, TheCaller, TheServer, nothing
from twofold.server.objects import lost
from twofold.server.tables import Image, Publisher, Rollout, Start, Variant, Version, VersionChunk
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
                {
                    "name": row.image.name, "version": row.version, "bytes": row.bytes, "published": row.published,
                    "architectures": [each.arch for each in row.variants],
                }
                for row in rows
            ]
        }  # fmt: skip


@router.get("/images/{name}")
def newest(name: str, server: TheServer) -> dict[str, Any]:
    """An image's newest version and its manifests, by architecture (`manifest` is the one that the target's path names); version
    0 where there is none."""
    image = slug(name, "an image")
    with server.database.read() as session:
        found = session.scalar(
            select(Version).join(Image).where(Image.name == image).order_by(Version.version.desc()).limit(1)
        )
        if found is None:
            return {"version": 0, "manifest": None, "manifests": {}}
        manifests = {each.arch: json.loads(each.manifest) for each in found.variants}
        own = found.variant("")
        return {
            "version": found.version,
            "manifest": manifests[own.arch] if own is not None else None,
            "manifests": manifests,
        }


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
def index(name: str, version: int, server: TheServer, arch: Arch = "") -> Response:
    """A version's sealed index: the one for `arch`, or the one that the target's path names."""
    with server.database.read() as session:
        variant = _find(session, name, version).variant(arch)
        if variant is None:
            raise nothing("version")
        return Response(variant.body, media_type="application/octet-stream")


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
    """Make sealed indexes the image's next version, named by the next targets. Their chunks must all be here."""
    image_name, number = slug(name, "an image"), ImageVersion.from_wire(body.manifest).version
    made = _made(server, image_name, number, [body, *body.others])
    with server.database.write() as session:
        image = session.scalar(select(Image).where(Image.name == image_name))
        if image is None:
            image = Image(name=image_name)
            session.add(image)
            session.flush()
        last = session.scalar(select(func.max(Version.version)).where(Version.image_id == image.id)) or 0
        if number != last + 1:
            raise ConflictError(
                f"{image_name} is at version {last}; version {number} cannot follow it.",
                safe="Nothing was changed.",
                next="Publish again: it takes the next version.",
            )
        signer = _signer(session, _bytes(body.targets))
        version = Version(image_id=image.id, version=number, publisher=signer, bytes=0, published=int(time.time()))
        session.add(version)
        session.flush()
        _add(session, server, version, made, _bytes(body.targets))
        archs = ", ".join(each.arch for each in made)
        audit.record(session, caller.actor, "publish", f"{image_name} {number} ({archs}) by {signer[:16]}")
    return {"version": number}


@router.post("/images/{name}/versions/{version}/variants", status_code=201)
def extend(name: str, version: int, body: MoreVariants, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Give a version that nobody runs yet indexes for further architectures, named by the next targets."""
    made = _made(server, slug(name, "an image"), version, body.others)
    with server.database.write() as session:
        found = _find(session, name, version)
        if any((each.image, each.version) == (name, version) and each.channels for each in roles.releases(session)):
            raise ConflictError(
                f"Version {version} of {name} is given out already.",
                safe="Nothing was changed.",
                next="Publish both builds as the next version.",
            )
        signer = _signer(session, _bytes(body.targets))
        _add(session, server, found, made, _bytes(body.targets))
        archs = ", ".join(each.arch for each in made)
        audit.record(session, caller.actor, "publish", f"{name} {version} for {archs} as well, by {signer[:16]}")
    return {"version": version}


@dataclass(frozen=True)
class _Made:
    """An index that was sent, checked for shape, and its chunks, which are here."""

    arch: str
    manifest: str
    sealed: bytes
    chunks: dict[bytes, int]


def _made(server: Server, image: str, version: int, sent: Sequence[NewVariant]) -> list[_Made]:
    made = []
    for each in sent:
        manifest, sealed = ImageVersion.from_wire(each.manifest), _bytes(each.index)
        if (manifest.image, manifest.version) != (image, version) or not sealed or len(sealed) > MAX_INDEX:
            raise BadInputError(f"This is not a version of {image}.", safe="Nothing was changed.")
        ids = {bytes.fromhex(chunk): stored for chunk, stored in each.chunks.items()}
        made.append(_Made(manifest.arch, canonical(manifest.to_wire()).decode(), sealed, ids))
    if len({each.arch for each in made}) != len(made):
        raise BadInputError("Two of the builds are for one architecture.", safe="Nothing was changed.")
    lacking = server.objects.lacking(list({id_: size for each in made for id_, size in each.chunks.items()}.items()))
    if lacking:
        raise ConflictError(
            f"{len(lacking)} of the image's chunks are not here.", next="Publish again: it sends these alone."
        )
    server.objects.sync()
    return made


def _signer(session: Session, untrusted_targets: bytes) -> str:
    root = roles.document(session, "root")
    signers = [] if root is None else documents.signers(untrusted_targets, root)
    if not signers:
        raise ConflictError("The list of images is not signed by the root's keys.", safe="Nothing was changed.")
    return signers[0].id


def _add(session: Session, server: Server, version: Version, made: Sequence[_Made], untrusted_targets: bytes) -> None:
    """Give a version these indexes; whatever the new list does not name exactly undoes all of it."""
    name = version.image.name
    there = set(session.scalars(select(VersionChunk.chunk).where(VersionChunk.version_id == version.id)))
    for each in made:
        if version.variant(each.arch) is not None:
            raise ConflictError(f"Version {version.version} of {name} has {each.arch} already.")
        digest = hashlib.sha256(each.sealed).hexdigest()
        version.variants.append(
            Variant(
                arch=each.arch, sha256=digest, manifest=each.manifest, bytes=sum(each.chunks.values()), body=each.sealed
            )
        )  # fmt: skip
        fresh = {chunk: stored for chunk, stored in each.chunks.items() if chunk not in there}
        if fresh:
            session.execute(insert(VersionChunk), [{"version_id": version.id, "chunk": chunk} for chunk in fresh])
        there |= fresh.keys()
        version.bytes += sum(fresh.values())
    session.flush()
    listed = {each.path: each for each in roles.set_targets(session, server.home, untrusted_targets).releases}
    mine = listed.get(f"{name}/{version.version}")
    lengths = {each.arch: len(each.sealed) for each in made}
    if mine is None or any(_length(mine, arch) != length for arch, length in lengths.items()):
        raise BadInputError("The list of images does not name this version.", safe="Nothing was changed.")


def _length(release: Release, arch: str) -> int:
    found = release.variant(arch)
    return 0 if found is None else found.length


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
        "architectures": [each.arch for each in row.variants],
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
