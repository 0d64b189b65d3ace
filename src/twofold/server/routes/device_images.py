"""Images as a device fetches them: what the roles say, sealed indexes and chunks, and how starts went."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from twofold.server import changes, leases, roles
from twofold.server.bodies import Arch, FewIds, Started
from twofold.server.context import Server, TheCaller, TheServer, nothing
from twofold.server.gate import Caller
from twofold.server.objects import chunk_key, lost
from twofold.server.ranges import Range, ranged
from twofold.server.tables import Image, Version, VersionChunk

router = APIRouter(prefix="/device", tags=["device"])


@router.get("/roles/{name}", response_class=Response)
def role(name: str, server: TheServer) -> Response:
    """A document of python-tuf's roles, by the name that its client asks for."""
    with server.database.read() as session:
        body, old = roles.served(session, name)
    if old:
        with server.database.write() as session:
            body = roles.renew(session, server.home)
    if body is None:
        raise nothing("document")
    return Response(body, media_type="application/json")


@router.post("/starts")
def start(body: Started, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """How a start of a version went on this device, which holds a lease on it; too many that failed stop its roll-out."""
    with server.database.write() as session:
        mine = leases.leased_versions(caller).where(Image.name == body.image, Version.version == body.version)
        version = session.scalar(mine)
        if version is None:
            raise nothing("image")
        roles.started(session, version, caller.device, good=body.good)
        if not body.good:
            changes.failed(session, caller, version)
    return {}


@router.get("/images/{name}/{version}", response_class=Response)
def index(name: str, version: int, caller: TheCaller, server: TheServer, arch: Arch = "") -> Response:
    """A version's sealed index, for a device that holds a lease on it: the one for `arch`, or the one that the target's path
    names."""
    with server.database.read() as session:
        held = leases.leased_versions(caller).where(Image.name == name, Version.version == version)
        found = session.scalar(select(Version).where(Version.id.in_(held)))
        variant = found.variant(arch) if found is not None else None
        if variant is None:
            raise nothing("image")
        return Response(variant.body, media_type="application/octet-stream")


@router.get("/chunks/{chunk}", response_class=Response)
def one_chunk(chunk: str, caller: TheCaller, server: TheServer, untrusted_range: Range = None) -> Response:
    """One sealed chunk; ranges are served."""
    if len(chunk) != 64 or chunk.strip("0123456789abcdef"):
        raise nothing("chunk")
    _may_fetch(server, caller, [bytes.fromhex(chunk)])
    return ranged(server.objects, chunk_key(bytes.fromhex(chunk)), untrusted_range)


@router.post("/chunks", response_class=Response)
def many_chunks(body: FewIds, caller: TheCaller, server: TheServer) -> Response:
    """Many sealed chunks as frames: id (32 bytes), length (4, little endian), bytes."""
    ids = list(dict.fromkeys(bytes.fromhex(chunk) for chunk in body.ids))
    _may_fetch(server, caller, ids)
    try:
        frames = server.objects.read_frames(ids)
    except (OSError, ValueError) as off:
        raise lost(len(ids)) from off
    return Response(frames, media_type="application/octet-stream")


def _may_fetch(server: Server, caller: Caller, ids: list[bytes]) -> None:
    with server.database.read() as session:
        mine = VersionChunk.version_id.in_(leases.leased_versions(caller))
        count = select(func.count(VersionChunk.chunk.distinct())).where(mine, VersionChunk.chunk.in_(ids))
        if session.scalar(count) != len(ids):
            raise nothing("chunk")
