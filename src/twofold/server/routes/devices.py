"""Devices as an administrator sees them: invitations, the list, revoking; leases; the audit log."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import delete, select

from twofold.server import audit, leases
from twofold.server.accounts import digest, new_code
from twofold.server.bodies import NewInvitation
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.once import TheOnce
from twofold.server.tables import Audit, Device, Invitation, Lease, User

router = APIRouter(tags=["devices"])


@router.post("/invitations", status_code=201)
def invite(body: NewInvitation, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    """A one-time code with which one device of this user enrols. It is shown once and stored as a digest."""
    code, now = new_code(), int(time.time())
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        user = session.scalar(select(User).where(User.name == body.user))
        if user is None:
            raise nothing("user")
        session.execute(delete(Invitation).where(Invitation.expires < now))
        session.add(
            Invitation(digest=digest(code), user_id=user.id, expires=now + body.hours * 3600, used=0, kind=body.kind)
        )
        audit.record(session, caller.actor, f"invite {body.kind}", f"of {user.name}")
        return once.keep(session, {"code": code, "expires": now + body.hours * 3600})


@router.get("/devices")
def list_devices(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        rows = session.scalars(select(Device).order_by(Device.enrolled, Device.id))
        return {
            "devices": [
                {
                    "device": row.id, "name": row.name, "user": row.user.name,
                    "enrolled": row.enrolled, "seen": row.seen, "revoked": row.revoked, "kind": row.kind,
                    "wrap_public": row.wrap_public,
                }
                for row in rows
            ]
        }  # fmt: skip


@router.delete("/devices/{device_id}")
def revoke(device_id: str, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Never talk to this device again, and ask for a new key wherever it may know the one of now."""
    with server.database.write() as session:
        device = session.get(Device, device_id)
        if device is None:
            raise nothing("device")
        device.revoked = device.revoked or int(time.time())
        for seat in session.scalars(select(Device).where(Device.node_id == device.id, Device.revoked == 0)):
            seat.revoked = device.revoked
        session.flush()
        holders = leases.want_epochs(session, device)
        audit.record(session, caller.actor, "revoke device", f"{device.name} of {device.user.name} {device.id[:16]}")
    server.bell.ring(holders)
    return {}


@router.get("/leases")
def list_leases(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        rows = session.scalars(select(Lease).order_by(Lease.grant_id))
        return {"leases": [_lease(row) for row in rows]}


def _lease(row: Lease) -> dict[str, Any]:
    return {
        "user": row.grant.user.name,
        "workspace": row.grant.workspace,
        "custody": row.custody,
        "device": row.device_id or "",
        "device_name": row.device.name if row.device else "",
        "token": row.token,
        "image": row.grant.image.name,
        "version": row.version.version if row.version else 0,
        "issued": row.issued,
    }


@router.get("/audit")
def list_audit(server: TheServer, after: int = 0) -> dict[str, Any]:
    """At most 1000 entries after a number."""
    fields = ("entry", "at", "actor", "action", "subject", "hash")
    with server.database.read() as session:
        rows = session.scalars(select(Audit).where(Audit.entry > after).order_by(Audit.entry).limit(1000))
        return {"audit": [{name: getattr(row, name) for name in fields} for row in rows]}
