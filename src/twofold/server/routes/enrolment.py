"""How a device and the server come to know each other."""

from __future__ import annotations

import base64
import time
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from sqlalchemy import func, select, update

from twofold.model.errors import ConflictError, RefusedError, UnknownError
from twofold.model.names import title
from twofold.server import audit, online, policies, roles
from twofold.server.accounts import digest
from twofold.server.bodies import Enrol
from twofold.server.context import Address, TheServer
from twofold.server.online import SEAT
from twofold.server.tables import Device, Invitation, User
from twofold.trust import request as signed
from twofold.trust.keys import VerifyKey
from twofold.trust.vouch import DEVICE

router = APIRouter(tags=["enrolment"])


@router.get("/authority", response_class=Response)
def authority(server: TheServer) -> Response:
    """The certificate authority (DER). Whoever asks checks its SHA-256 against an invitation; it is no secret."""
    return Response(server.home.authority, media_type="application/pkix-cert")


@router.post("/enrol", status_code=201)
async def enrol(body: Enrol, request: Request, server: TheServer, address: Address) -> dict[str, Any]:
    """Use up a one-time code. The request is signed by the key that it brings, which proves that the device has it."""
    server.guesses_from.check(address)
    key = VerifyKey.from_hex(body.public)
    raw = await request.body()
    try:
        claim = signed.claim({name.lower(): value for name, value in request.headers.items()})
        signed.check(claim, key, "", "POST", request.url.path, raw, time.time())
    except RefusedError as off:
        raise UnknownError("The invitation is not valid.") from off
    return await run_sync(_enrol, body, key, server, address)


def _enrol(body: Enrol, key: VerifyKey, server: TheServer, address: str) -> dict[str, Any]:
    now, name = int(time.time()), title(body.name, "a device's name")
    with server.database.write() as session:
        # One statement finds the code and uses it up, so that two devices can't share it.
        good = (Invitation.digest == digest(body.code), Invitation.used == 0, Invitation.expires > now)
        invited = session.scalar(update(Invitation).where(*good).values(used=now).returning(Invitation))
        if invited is None:
            server.guesses_from.failed(address)
            raise UnknownError("The invitation is not valid.", next="It may be used or too old: ask for a new one.")
        owner = invited.user_id
        user = session.get_one(User, owner)
        device = session.get(Device, key.id)
        # Whoever had that one may have its key still, and would open what is wrapped for this one.
        another = (Device.wrap_public == body.wrap_public, Device.id != key.id, Device.revoked > 0)
        if session.scalar(select(Device.id).where(*another).limit(1)) is not None:
            raise ConflictError(
                "This device brings the key of another one, which was revoked.",
                safe="The invitation can still be used.",
                next="Remove the file device/wrapping.key of this device, which is made anew, and enrol again.",
            )
        if device is None and invited.kind == DEVICE:
            count = select(func.count(Device.id)).where(
                Device.user_id == owner, Device.kind == DEVICE, Device.revoked == 0
            )
            most = policies.of_user(session, user.name).devices
            if most and (session.scalar(count) or 0) >= most:
                raise RefusedError(
                    f"{user.name} has {most} devices, which is the most that your company allows.",
                    safe="The invitation can still be used.",
                    next="Ask your administrator to revoke one that is not used any more.",
                )
        if device is None:
            device = Device(id=key.id, user_id=owner, public=body.public, enrolled=now)
            device.kind, device.node_id = invited.kind, invited.node_id
            session.add(device)
        elif device.user_id != owner or device.kind != invited.kind:
            raise ConflictError(
                "This device is enrolled for another person or purpose.", safe="The invitation can still be used."
            )
        device.name, device.wrap_public, device.seen, device.revoked = name, body.wrap_public, now, 0
        session.flush()
        if device.kind == SEAT:
            online.seated(session, device)
        audit.record(session, f"device {key.id[:16]}", "enrol", f"{name} of {user.name}")
        return {
            "company": server.home.company,
            "user": user.name,
            "kind": device.kind,
            "server_key": server.home.signing.verify_key.public.hex(),
            # The device knows by its invitation which of these it pins.
            "roots": [base64.b64encode(root).decode() for root in roles.last_roots(session)],
        }
