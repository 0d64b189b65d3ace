"""Grants: who may check out what."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import delete, or_, select

from twofold.model.canonical import canonical
from twofold.model.errors import ConflictError
from twofold.model.names import colour, slug, title
from twofold.model.policy import Policy, rules
from twofold.model.workspace import Custody
from twofold.server import audit, policies
from twofold.server.bodies import NewGrant
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.once import TheOnce
from twofold.server.tables import Command, Grant, Holder, Image, Lease, Ticket, User

router = APIRouter(tags=["grants"])


@router.get("/grants")
def list_grants(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        return {"grants": [_row(grant) for grant in session.scalars(select(Grant).order_by(Grant.id))]}


@router.post("/grants", status_code=201)
def add_grant(body: NewGrant, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    """Let a user check out a workspace. No two workspaces of one user share a name or a colour: they must not look alike."""
    workspace, shown, tint = (
        slug(body.workspace, "a workspace"),
        title(body.title, "a workspace's name"),
        colour(body.colour),
    )
    said, pool = rules(body.policy), slug(body.pool, "a pool") if body.pool else ""
    Policy.from_wire(said)
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        user = session.scalar(select(User).where(User.name == body.user))
        image = session.scalar(select(Image).where(Image.name == body.image))
        if user is None or image is None:
            raise nothing("user" if user is None else "image")
        alike = or_(Grant.workspace == workspace, Grant.title == shown, Grant.colour == tint)
        other = session.scalar(select(Grant).where(Grant.user_id == user.id, alike).limit(1))
        if other is not None:
            raise ConflictError(
                f"{user.name} has '{other.title}' ({other.workspace}, {other.colour}); two workspaces must not look alike.",
                safe="Nothing was changed.",
                next="Choose another name, title or colour, or remove that grant.",
            )
        grant = Grant(
            user_id=user.id, image_id=image.id, workspace=workspace, title=shown, colour=tint,
            policy=canonical(said).decode(), ends=body.ends, created=int(time.time()), pool=pool or image.name,
        )  # fmt: skip
        session.add(grant)
        session.flush()
        nobody = {"token": 0, "issued": 0, "epoch": 0, "keys": "", "since": 0, "seen": 0, "told": ""}
        session.add(Lease(grant_id=grant.id, custody=Custody.CHECKED_IN, **nobody))
        session.flush()
        policies.of(session, grant)  # refused whole where it contradicts what wider scopes say
        audit.record(session, caller.actor, "grant", f"{workspace} from {image.name} to {user.name}")
        return once.keep(session, {"grant": grant.id})


@router.delete("/grants/{grant_id}")
def remove_grant(grant_id: int, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """End a grant now. One that nobody ever used is gone; any other stays listed, with its past and whoever holds it."""
    with server.database.write() as session:
        grant = session.get(Grant, grant_id)
        if grant is None:
            raise nothing("grant")
        lease = session.get_one(Lease, grant_id)
        past = session.scalar(select(Holder.token).where(Holder.grant_id == grant_id).limit(1))
        if lease.device_id is None and past is None:
            for table in (Command, Ticket):  # it may have been asked for, in vain
                session.execute(delete(table).where(table.grant_id == grant_id))
            session.delete(lease)
            session.flush()
            session.delete(grant)
        else:
            grant.ends = int(time.time())
        audit.record(session, caller.actor, "end grant", f"{grant.workspace} of {grant.user.name}")
    return {}


def _row(grant: Grant) -> dict[str, Any]:
    return {
        "grant": grant.id,
        "user": grant.user.name,
        "image": grant.image.name,
        "workspace": grant.workspace,
        "title": grant.title,
        "colour": grant.colour,
        "pool": grant.pool,
        "policy": json.loads(grant.policy),
        "ends": grant.ends,
    }
