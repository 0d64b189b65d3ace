"""A device's side of generations: its vault's files, commits, the line of history, wrapped keys."""

from __future__ import annotations

import json
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import RefusedError
from twofold.model.generation import LARGEST_FILE
from twofold.server import history, leases, quotas, uploads
from twofold.server.bodies import Commit, DeviceWraps, Files
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.gate import Caller
from twofold.server.ranges import Range, ranged
from twofold.server.tables import Device, Generation, Grant, Lease, Sealed
from twofold.trust.vouch import NODE

router = APIRouter(prefix="/device", tags=["generations"])
_KEPT = 1 << 20  # bytes of all wraps of one workspace's keys
_BYTES = {"requestBody": {"content": {"application/octet-stream": {}}, "required": True}}
Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


@router.post("/objects/missing")
def missing(body: Files, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Which of these files are not here, and how much of each is."""
    with server.database.write() as session:  # a lease that is shown may be taken up again
        found = leases.held(session, server, caller, body.workspace, body.token, body.lease)
        number = found.grant.id
        wanted = [row.digest for row in body.objects]
        there = set(session.scalars(select(Sealed.digest).where(Sealed.grant_id == number, Sealed.digest.in_(wanted))))
        have = {digest: uploads.have(server, number, body.token, digest) for digest in wanted if digest not in there}
        sizes = {row.digest: row.size for row in body.objects if row.digest in have}
        quotas.require(session, server, found.grant, sum(sizes[digest] - have[digest] for digest in sizes))
    return {"missing": [{"digest": digest, "have": bytes_} for digest, bytes_ in have.items()]}


@router.put("/objects/{workspace}/{token}/{digest}", openapi_extra=_BYTES)
async def put(
    workspace: str,
    token: Annotated[int, Path(ge=1, lt=1 << 53)],
    digest: Digest,
    request: Request,
    caller: TheCaller,
    server: TheServer,
    size: Annotated[int, Query(ge=1, le=LARGEST_FILE)],
    offset: Annotated[int, Query(ge=0, lt=LARGEST_FILE)] = 0,
) -> dict[str, Any]:
    """The bytes of a file from `offset` on. What arrives before a cut stays."""

    def look() -> tuple[int, int | None]:
        with server.database.read() as session:
            found = leases.held(session, server, caller, workspace, token)
            row = session.get(Sealed, (found.grant.id, digest))
            if row is None:
                quotas.require(session, server, found.grant, max(0, size - offset))
            return found.grant.id, row.size if row else None

    number, there = await run_sync(look)
    if there is not None:
        return {"have": there}
    return {"have": await uploads.receive(server, number, token, digest, size, offset, request.stream())}


@router.get("/objects/{workspace}/{digest}", response_class=Response)
def get(
    workspace: str, digest: Digest, caller: TheCaller, server: TheServer, untrusted_range: Range = None
) -> Response:
    """A file, or a range of it, for the holder of the lease."""
    with server.database.read() as session:
        row = session.get(Sealed, (_holding(session, caller, workspace).grant_id, digest))
        if row is None:
            raise nothing("file")
        key = row.key
    return ranged(server.objects, key, untrusted_range)


@router.post("/generations", status_code=201)
def commit(body: Commit, caller: TheCaller, server: TheServer, response: Response) -> dict[str, Any]:
    """Make a generation part of the workspace's past. What it is made of must be here."""
    document = body.generation.model_dump()
    with server.database.read() as session:
        made = history.manifest(session, caller, body.workspace, document)
    with server.database.write() as session:
        found = leases.held(session, server, caller, body.workspace, body.token, body.lease)
        row, new = history.commit(session, caller, found, made, document, body.head, body.keys)
        if row.grant_id != found.grant.id:
            raise nothing("workspace")
        response.status_code = 201 if new else 200
        return {"id": row.id, "kind": row.kind}


@router.get("/generations/{workspace}")
def line(workspace: str, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Line and branches of a workspace that this device holds, newest first."""
    with server.database.read() as session:
        return {"generations": history.listed(session, _holding(session, caller, workspace).grant_id)}


@router.get("/generations/{workspace}/{generation}")
def one(workspace: str, generation: Digest, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """A generation's signed document, as it was committed."""
    with server.database.read() as session:
        row = session.get(Generation, generation)
        if row is None or row.grant_id != _holding(session, caller, workspace).grant_id:
            raise nothing("generation")
        return {"generation": json.loads(row.document)}


@router.get("/keys/{workspace}")
def keys(workspace: str, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """The wrapped keys of the newest generation, for the devices of its user."""
    with server.database.read() as session:
        lease = _mine(session, caller, workspace)
        return {"keys": leases.given(lease.keys)}


@router.post("/wraps")
def wraps(body: DeviceWraps, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Add wraps for devices of this user. Whether they open is for those devices to see."""
    rows = [wrap.model_dump(by_alias=True) for wrap in body.wraps]
    if any(row["for"] != "device" for row in rows):
        raise RefusedError("A device wraps for devices alone.", safe="Nothing was changed.")
    with server.database.write() as session:
        add_wraps(_mine(session, caller, body.workspace), rows)
    return {}


@router.get("/devices")
def devices(caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """The user's devices, seats among them, the company's nodes, and their public keys: what the server says, which proves
    nothing; `vouch` may. Revoked ones are among them: a lost device's last back up is what the next one goes on from."""
    with server.database.read() as session:
        known = or_(Device.user_id == caller.user_id, Device.kind == NODE)
        own = select(Device).where(known).order_by(Device.enrolled, Device.id)
        return {
            "devices": [
                {
                    "device": row.id,
                    "name": row.name,
                    "public": row.public,
                    "wrap_public": row.wrap_public,
                    "revoked": row.revoked,
                    "kind": row.kind,
                    "vouch": row.vouch,
                }
                for row in session.scalars(own)
            ]
        }


def add_wraps(lease: Lease, rows: list[dict[str, Any]]) -> None:
    """
    Raises:
        NotFoundError: no keys of it are here yet.
    """
    if not lease.keys:
        raise nothing("key")
    held = canonical(leases.merged(json.loads(lease.keys), rows)).decode()
    if len(held) > _KEPT:
        raise RefusedError("There are too many wraps of these keys already.", safe="Nothing was changed.")
    leases.keys_document(leases.given(held), lease.grant.workspace)  # what devices get of them can be read
    lease.keys = held


def _mine(session: Session, caller: Caller, workspace: str) -> Lease:
    own = (Grant.user_id == caller.user_id, Grant.workspace == workspace)
    lease = session.scalar(select(Lease).join(Grant).where(*own))
    if lease is None:
        raise nothing("workspace")
    return lease


def _holding(session: Session, caller: Caller, workspace: str) -> Lease:
    lease = _mine(session, caller, workspace)
    if lease.device_id != caller.device:
        raise nothing("workspace")
    return lease
