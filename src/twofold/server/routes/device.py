"""What an enrolled device may ask. It sees its own user's grants, what it holds a lease on, and nothing else."""

from __future__ import annotations

import time
from typing import Any

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import RefusedError, TwofoldError
from twofold.model.workspace import CUSTODY_MOVES, Custody, move
from twofold.server import changes, commands, leases, online, policies, roles
from twofold.server.bodies import Arch, CheckOut, Discard, Heartbeat, Leave, SeatFor, Told, Vouch, Wait
from twofold.server.context import Server, TheCaller, TheServer, nothing
from twofold.server.gate import Caller
from twofold.server.history import documents
from twofold.server.leases import EPOCHS, EXTENSION
from twofold.server.tables import Device, Grant, Lease

router = APIRouter(prefix="/device", tags=["device"])
_LOOK, _POLL = 0.1, 2.0  # seconds between looks at the bell, and at the database, while a device waits


@router.get("/hello")
def hello() -> dict[str, Any]:
    """What this server can do beyond the first protocol, by name."""
    known = [EXTENSION, EPOCHS, online.EXTENSION, leases.ARCHITECTURES, leases.CHANNELS]
    return {"extensions": known, "time": int(time.time())}


@router.get("/grants")
def grants(caller: TheCaller, server: TheServer, arch: Arch = "") -> dict[str, Any]:
    """The workspaces that this device's user may check out, with the version they would get and what that is for `arch`, the
    device's own; `bytes` is 0 where it has nothing for it."""
    with server.database.read() as session:
        rows = []
        for grant in session.scalars(leases.granted(caller)):
            version = roles.version_for(session, grant.image, caller.device, arch, grant.channel)
            if version is not None:
                variant = version.variant(arch)
                rows.append(
                    {
                        "workspace": grant.workspace, "title": grant.title, "colour": grant.colour,
                        "image": grant.image.name, "version": version.version,
                        "bytes": variant.bytes if variant is not None else 0,
                    }
                )  # fmt: skip
        return {"grants": rows}


@router.post("/checkout")
def checkout(body: CheckOut, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Move the lease to this device. A device that holds it already gets it again, as it is. Where a node has it, the node
    is asked for it, and the answer says what to wait for."""
    speaks = EXTENSION in body.speaks
    if online.EXTENSION in body.speaks:
        with server.database.write() as session:
            coming = online.releasing(session, caller, body.workspace, body.request)
        if coming is not None:
            server.bell.ring([coming.pop("machine")])
            return {"coming": coming}
    with server.database.write() as session:
        online.require_asked(session, caller, online.mine(session, caller.user_id, body.workspace))
        channels = leases.CHANNELS in body.speaks
        lease = leases.take(session, caller, body.workspace, body.arch, speaks=speaks, channels=channels)
        changes.taken(session, lease)
        epochs = EPOCHS in body.speaks
        answer: dict[str, Any] = {"lease": leases.signed(session, server, lease, speaks=speaks, epochs=epochs)}
        answer |= {"channel": lease.grant.channel} if channels else {}
        return answer | documents(session, lease) if speaks else answer


@router.post("/heartbeat")
def heartbeat(body: Heartbeat, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Every lease that this device holds and may go on holding, signed afresh with the policy of now; and what it must hear."""
    speaks, now = EXTENSION in body.speaks, int(time.time())
    with server.database.write() as session:
        for receipt in body.receipts:
            commands.receipt(session, caller, receipt.command, receipt.result, receipt.detail)
        lost_ones = [row for told in body.workspaces if (row := _heard(session, server, caller, told))]
        held = select(Lease).join(Grant).where(Lease.device_id == caller.device)
        signed, heads = [], {}
        for lease in session.scalars(held.where(leases.alive()).order_by(Lease.grant_id)).all():
            lease.seen = now
            heads[lease.grant.workspace] = lease.head or ""
            signed.append(leases.signed(session, server, lease, speaks=speaks, epochs=EPOCHS in body.speaks))
        if not speaks:
            return {"leases": signed}
        asked = commands.given(session, server, caller)
        return {"leases": signed, "lost": lost_ones, "commands": asked, "time": now, "head": heads}


@router.post("/wait")
async def wait(body: Wait, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Answer as soon as there is a reason for a heartbeat, or after `seconds`. `since` is the `time` of the last one."""

    def look() -> bool:
        with server.database.read() as session:
            return commands.news(session, caller.device, body.since)

    rung = server.bell.count(caller.device)
    end = time.monotonic() + body.seconds
    while True:
        if await run_sync(look):
            return {"news": True}
        next_look = time.monotonic() + _POLL
        while time.monotonic() < min(end, next_look):
            await anyio.sleep(_LOOK)
            if server.bell.count(caller.device) != rung:
                return {"news": True}
        if time.monotonic() >= end:
            return {"news": False}


@router.post("/vouch")
def vouch(body: Vouch, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Keep what a machine says of its own wrapping key, for others to check (docs/keys.md)."""
    with server.database.write() as session:
        session.get_one(Device, caller.device).vouch = body.vouch
    return {}


@router.post("/seats")
def seats(body: SeatFor, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """For a node that was asked for one: whose seat it makes, and the one-time code with which that enrols."""
    with server.database.write() as session:
        return online.seat_code(session, caller, body.command)


@router.post("/checkin")
def checkin(body: Leave, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Give the lease back. Doing it twice is doing it once."""
    with server.database.write() as session:
        mine = (Grant.user_id == caller.user_id, Grant.workspace == body.workspace)
        lease = session.scalar(select(Lease).join(Grant).where(*mine))
        if lease is None:
            raise nothing("workspace")
        if lease.device_id is None:
            return {}
        if lease.device_id != caller.device or body.token not in (None, lease.token):
            raise RefusedError("Another device holds this workspace.", safe="Nothing was changed.")
        found = leases.held(session, server, caller, body.workspace, lease.token)
        asked = commands.asked(session, caller, found.grant, "replicate-discard", online.RELEASE)
        if not policies.of(session, found.grant)[0].checkin and not asked:
            raise RefusedError("Your company does not let this be given back.", safe="Nothing was changed.")
        leases.leave(session, caller, found, "checked-in", body.generation)
    return {}


@router.post("/discard")
def discard(body: Discard, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Give the lease back without what this device wrote since its last back up."""
    with server.database.write() as session:
        found = leases.held(session, server, caller, body.workspace, body.token)
        if not found.now:
            return {}
        policy, _ = policies.of(session, found.grant)
        if not policy.discard and not commands.asked(session, caller, found.grant, "discard", "replicate-discard"):
            raise RefusedError("Your company does not let this be discarded.", safe="Nothing was changed.")
        leases.leave(session, caller, found, "discarded")
    return {}


def _heard(session: Session, server: Server, caller: Caller, told: Told) -> dict[str, Any] | None:
    """Note what a device says of one workspace; where it does not hold it any more, say so."""
    try:
        found = leases.held(session, server, caller, told.workspace, told.token, told.lease)
    except TwofoldError:
        return {"workspace": told.workspace, "token": told.token, "why": "unknown"}
    if not found.now:
        return {"workspace": told.workspace, "token": told.token, "why": found.holder.how or "unknown"}
    lease = found.lease
    here = {"run": told.run, "verified": told.verified}
    lease.told = canonical(here | {"transfer": told.transfer.model_dump() if told.transfer else None}).decode()
    if told.version:
        changes.stands(session, lease, told.version)
    verb = told.transfer.verb if told.transfer else ""
    state, title = Custody(lease.custody), found.grant.title
    if state is Custody.CHECKING_OUT and verb != "check-out":
        state = move(CUSTODY_MOVES, state, Custody.CHECKED_OUT, title)
    if state is Custody.CHECKED_OUT and verb == "check-in":
        state = move(CUSTODY_MOVES, state, Custody.CHECKING_IN, title)
    elif state is Custody.CHECKING_IN and verb != "check-in":
        state = move(CUSTODY_MOVES, state, Custody.CHECKED_OUT, title)
    lease.custody = state
    return None
