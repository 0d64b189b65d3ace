"""What an enrolled device may ask. It sees its own user's grants and the chunks of images it holds a lease on, nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from twofold import _core
from twofold.model import lease as model
from twofold.model.errors import ConflictError, DamagedError, RefusedError
from twofold.model.policy import Policy
from twofold.model.workspace import CUSTODY_MOVES, Custody, move
from twofold.server import audit
from twofold.server.bodies import Empty, FewIds, Workspace
from twofold.server.context import Server, TheCaller, TheServer, nothing
from twofold.server.gate import Caller
from twofold.server.tables import Device, Grant, Image, Lease, Version, VersionChunk
from twofold.trust.signed import Context, sign

router = APIRouter(prefix="/device", tags=["device"])


@router.get("/grants")
def grants(caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """The workspaces that this device's user may check out, with the version they would get."""
    with server.database.read() as session:
        rows = []
        for grant in session.scalars(_granted(caller)):
            version = _newest(session, grant.image_id)
            if version is not None:
                rows.append(
                    {
                        "workspace": grant.workspace, "title": grant.title, "colour": grant.colour,
                        "image": grant.image.name, "version": version.version, "bytes": version.bytes,
                    }
                )  # fmt: skip
        return {"grants": rows}


@router.post("/checkout")
def checkout(body: Workspace, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Move the lease to this device. A device that holds it already gets it again, as it is."""
    with server.database.write() as session:
        grant = session.scalar(_granted(caller).where(Grant.workspace == body.workspace))
        version = _newest(session, grant.image_id) if grant else None
        if grant is None or version is None:
            raise nothing("workspace")
        lease = session.get_one(Lease, grant.id)
        if lease.device_id != caller.device:
            # The move is one compare-and-set: it happens only to a lease that nobody holds, from the token that was read.
            free = (Lease.grant_id == grant.id, Lease.device_id.is_(None), Lease.token == lease.token)
            state = move(CUSTODY_MOVES, Custody.CHECKED_IN, Custody.CHECKING_OUT, grant.title)
            state = move(CUSTODY_MOVES, state, Custody.CHECKED_OUT, grant.title)
            values = {"custody": state, "device_id": caller.device, "token": lease.token + 1, "version_id": version.id}
            if session.scalar(update(Lease).where(*free).values(**values).returning(Lease.token)) is None:
                raise ConflictError(
                    f"'{grant.title}' is checked out on '{lease.device.name if lease.device else 'another device'}'.",
                    safe="Nothing was changed there or here.",
                    next="Check it in on that device, or ask your administrator to release it.",
                )
            session.refresh(lease)
            audit.record(session, caller.actor, "check out", f"{grant.workspace} of {caller.user}, token {lease.token}")
        return {"lease": _signed(session, server, caller, lease)}


@router.post("/heartbeat")
def heartbeat(body: Empty, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Every lease that this device holds and may go on holding, signed afresh with the policy of now."""
    with server.database.write() as session:
        held = select(Lease).join(Grant).where(Lease.device_id == caller.device, _alive())
        leases = session.scalars(held.order_by(Lease.grant_id)).all()
        return {"leases": [_signed(session, server, caller, lease) for lease in leases]}


@router.post("/checkin")
def checkin(body: Workspace, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Give the lease back. Doing it twice is doing it once."""
    with server.database.write() as session:
        mine = (Grant.user_id == caller.user_id, Grant.workspace == body.workspace)
        lease = session.scalar(select(Lease).join(Grant).where(*mine))
        if lease is None:
            raise nothing("workspace")
        if lease.device_id is None:
            return {}
        if lease.device_id != caller.device:
            raise RefusedError("Another device holds this workspace.", safe="Nothing was changed.")
        state = move(CUSTODY_MOVES, Custody(lease.custody), Custody.CHECKING_IN, lease.grant.title)
        lease.custody = move(CUSTODY_MOVES, state, Custody.CHECKED_IN, lease.grant.title)
        lease.device_id = lease.version_id = None
        audit.record(session, caller.actor, "check in", f"{body.workspace} of {caller.user}, token {lease.token}")
    return {}


@router.get("/images/{name}/{version}")
def index(name: str, version: int, caller: TheCaller, server: TheServer) -> Response:
    """A version's signed index, chunk keys and all, for a device that holds a lease on it."""
    with server.database.read() as session:
        held = _leased(caller).where(Image.name == name, Version.version == version)
        found = session.scalar(select(Version.document).join(Image).where(Version.id.in_(held)))
        if found is None:
            raise nothing("image")
        return Response(found, media_type="application/json")


@router.get("/chunks/{chunk}", response_class=FileResponse)
def one_chunk(chunk: str, caller: TheCaller, server: TheServer) -> Response:
    """One sealed chunk; ranges are served."""
    if len(chunk) != 64 or chunk.strip("0123456789abcdef"):
        raise nothing("chunk")
    _may_fetch(server, caller, [bytes.fromhex(chunk)])
    path = server.home.objects / chunk[:2] / chunk
    if not path.is_file():
        raise _lost(1)
    return FileResponse(path, media_type="application/octet-stream")


@router.post("/chunks", response_class=Response)
def many_chunks(body: FewIds, caller: TheCaller, server: TheServer) -> Response:
    """Many sealed chunks as frames: id (32 bytes), length (4, little endian), bytes."""
    ids = list(dict.fromkeys(bytes.fromhex(chunk) for chunk in body.ids))
    _may_fetch(server, caller, ids)
    try:
        frames = _core.read_frames(server.home.objects, ids)
    except (OSError, ValueError) as off:
        raise _lost(len(ids)) from off
    return Response(frames, media_type="application/octet-stream")


def _alive() -> Any:
    return or_(Grant.ends == 0, Grant.ends > int(time.time()))


def _granted(caller: Caller) -> Any:
    return select(Grant).where(Grant.user_id == caller.user_id, _alive()).order_by(Grant.id)


def _newest(session: Session, image_id: int) -> Version | None:
    return session.scalar(select(Version).where(Version.image_id == image_id).order_by(Version.version.desc()).limit(1))


def _leased(caller: Caller) -> Any:
    held = select(Lease.version_id).join(Grant).where(Lease.device_id == caller.device, _alive())
    return select(Version.id).join(Image).where(Version.id.in_(held))


def _may_fetch(server: Server, caller: Caller, ids: list[bytes]) -> None:
    with server.database.read() as session:
        mine = VersionChunk.version_id.in_(_leased(caller))
        count = select(func.count(VersionChunk.chunk.distinct())).where(mine, VersionChunk.chunk.in_(ids))
        if session.scalar(count) != len(ids):
            raise nothing("chunk")


def _lost(count: int) -> DamagedError:
    return DamagedError(
        f"The server has lost a chunk (of {count} that were asked for).",
        safe="What is on the device is not affected.",
        next="Tell your administrator: publishing the image again brings it back.",
    )


def _signed(session: Session, server: Server, caller: Caller, lease: Lease) -> dict[str, Any]:
    grant, device = lease.grant, session.get_one(Device, caller.device)
    assert lease.version is not None  # a held lease names its version
    lease.issued = int(time.time())
    body = model.Lease(
        workspace=grant.workspace, title=grant.title, colour=grant.colour, user=grant.user.name, device=device.id,
        token=lease.token, image=grant.image.name, image_version=lease.version.version, issued=lease.issued,
        expires=grant.ends, policy=Policy.from_wire(json.loads(grant.policy)),
    )  # fmt: skip
    return sign(Context.LEASE, body.to_wire(), server.home.signing)
