"""Grants: who may check out what."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Path
from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError
from twofold.model.names import colour, slug, title
from twofold.model.policy import Policy, rules
from twofold.server import audit, policies, shares
from twofold.server.bodies import ChangedGrant, NewGrant
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.gate import Caller
from twofold.server.once import TheOnce
from twofold.server.tables import Grant, Group, Image, Lease, User

router = APIRouter(tags=["grants"])
Number = Annotated[int, Path(ge=1, lt=1 << 53)]


@router.get("/grants")
def list_grants(server: TheServer) -> dict[str, Any]:
    """Grants to users and groups; what a group's gives to each member stands in `grants/N`."""
    with server.database.read() as session:
        said = select(Grant).where(Grant.given_id.is_(None)).order_by(Grant.id)
        return {"grants": [described(grant) for grant in session.scalars(said)]}


@router.get("/grants/{grant_id}")
def one_grant(grant_id: Number, server: TheServer) -> dict[str, Any]:
    """A grant, and for a group's what each member has by it."""
    with server.database.read() as session:
        grant = _grant(session, grant_id)
        return described(grant) | {"members": shares.told(session, grant) if grant.group else []}


@router.post("/grants", status_code=201)
def add_grant(body: NewGrant, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    """Let a user, or each member of a group, check out a workspace. No two workspaces of one user share a name or a colour: they
    must not look alike."""
    said, pool = rules(body.policy), slug(body.pool, "a pool") if body.pool else ""
    columns = {
        "workspace": slug(body.workspace, "a workspace"), "title": title(body.title, "a workspace's name"),
        "colour": colour(body.colour), "channel": slug(body.channel, "a channel"), "ends": body.ends,
        "policy": canonical(said).decode(),
    }  # fmt: skip
    Policy.from_wire(said)
    if bool(body.user) == bool(body.group):
        raise BadInputError("A grant is to a user or to a group, one of them.")
    if body.user and body.rank:
        raise BadInputError("A user's own grant has no rank: it comes before every group's.")
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        image = session.scalar(select(Image).where(Image.name == body.image))
        if image is None:
            raise nothing("image")
        columns |= {"image_id": image.id, "pool": pool or image.name}
        add = _to_group if body.group else _to_user
        answer, rung = add(session, caller, body, columns)
        once.keep(session, answer)
    server.bell.ring(rung)
    return answer


def _to_user(
    session: Session, caller: Caller, body: NewGrant, columns: dict[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    user = session.scalar(select(User).where(User.name == body.user))
    if user is None:
        raise nothing("user")
    name = columns["workspace"]
    held = session.scalar(select(Grant).where(Grant.user_id == user.id, Grant.workspace == name))
    if held is not None and held.image_id != columns["image_id"] and not held.own and not shares.used(session, held):
        shares.end(session, caller.actor, held)  # a group's, and nothing stands on it
        held = None
    taken = held is not None and (held.own or held.image_id != columns["image_id"])
    other = held if taken else shares.alike(session, user.id, columns["title"], columns["colour"], held)
    if other is not None:
        raise ConflictError(
            f"{user.name} has '{other.title}' ({other.workspace}, {other.colour}); two workspaces must not look alike.",
            safe="Nothing was changed.",
            next="Choose another name, title or colour, or remove that grant.",
        )
    if held is None:
        held = shares.begin(session, user_id=user.id, own=True, rank=0, **columns)
    else:  # what is there by a group's grant, or was by any, goes on by this one, with its past
        for column, value in (columns | {"own": True, "given_id": None}).items():
            setattr(held, column, value)
        policies.changed(session, held)
        session.expire(held, ["given"])
    policies.of(session, held)  # refused whole where it contradicts what wider scopes say
    audit.record(session, caller.actor, "grant", f"{name} from {body.image} to {user.name}, channel {held.channel}")
    device = session.get_one(Lease, held.id).device_id
    return {"grant": held.id}, {device} if device else set()


def _to_group(
    session: Session, caller: Caller, body: NewGrant, columns: dict[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    group = session.scalar(select(Group).where(Group.name == body.group))
    if group is None:
        raise nothing("group")
    same = (Grant.group_id == group.id, Grant.workspace == columns["workspace"])
    if (other := session.scalar(select(Grant).where(*same))) is not None:
        raise ConflictError(
            f"Grant {other.id} gives {other.workspace} to {group.name} already.", safe="Nothing was changed."
        )
    grant = Grant(group_id=group.id, own=False, rank=body.rank, created=int(time.time()), **columns)
    session.add(grant)
    session.flush()
    policies.of(session, grant)
    what = f"{grant.workspace} from {body.image} to group {group.name}, channel {grant.channel}, rank {grant.rank}"
    audit.record(session, caller.actor, "grant", what)
    everybody = shares.members(session, group)
    rung = shares.settle(session, caller.actor, everybody, [grant.id])
    reached = len(shares.reached(session, grant))
    return {"grant": grant.id, "members": len(everybody), "reached": reached}, rung


@router.put("/grants/{grant_id}")
def change_grant(grant_id: Number, body: ChangedGrant, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Have a grant follow another channel, or a group's come before others. What is checked out stays on its version until it is
    upgraded."""
    with server.database.write() as session:
        grant = _said(session, grant_id)
        if body.rank is not None and grant.group is None:
            raise BadInputError("A user's own grant has no rank: it comes before every group's.")
        grant.channel = grant.channel if body.channel is None else slug(body.channel, "a channel")
        grant.rank = grant.rank if body.rank is None else body.rank
        session.flush()
        audit.record(session, caller.actor, "change grant", f"{grant.id}: channel {grant.channel}, rank {grant.rank}")
        rung = set[str]()
        if grant.group is not None:
            rung = shares.settle(session, caller.actor, shares.members(session, grant.group), [grant.id])
        answer = described(grant)
    server.bell.ring(rung)
    return answer


@router.delete("/grants/{grant_id}")
def remove_grant(grant_id: Number, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """End a grant now. One that nobody ever used is gone; any other stays listed, with its past and whoever holds it. What a
    group's grant gives to the same user goes on by that one."""
    with server.database.write() as session:
        grant = _said(session, grant_id)
        if grant.group is not None:
            everybody = shares.members(session, grant.group)
            audit.record(session, caller.actor, "end grant", f"{grant.workspace} of group {grant.group.name}")
            shares.forget(session, grant)
            rung = shares.settle(session, caller.actor, everybody)
        elif grant.own and grant.workspace in shares.candidates(session, grant.user.id):
            audit.record(session, caller.actor, "end grant", f"{grant.workspace} of {grant.user.name}, their own")
            grant.own, grant.policy = False, canonical({}).decode()
            rung = shares.settle(session, caller.actor, [grant.user.id])
        else:
            rung = shares.end(session, caller.actor, grant)
    server.bell.ring(rung)
    return {}


def _grant(session: Session, number: int) -> Grant:
    grant = session.get(Grant, number)
    if grant is None:
        raise nothing("grant")
    return grant


def _said(session: Session, number: int) -> Grant:
    """A grant that an administrator made.

    Raises:
        NotFoundError: there is none. ConflictError: the number is that of a workspace that a group's grant gives.
    """
    grant = _grant(session, number)
    if grant.given is not None and grant.given.group is not None:
        raise ConflictError(
            f"{grant.workspace} of {grant.user.name} is there by grant {grant.given.id} to {grant.given.group.name}.",
            safe="Nothing was changed.",
            next=f"Change that grant, or:  twofold group leave {grant.given.group.name} {grant.user.name}",
        )
    return grant


def described(grant: Grant) -> dict[str, Any]:
    return {
        "grant": grant.id,
        "user": grant.person.name if grant.person else "",
        "group": grant.group.name if grant.group else "",
        "image": grant.image.name,
        "workspace": grant.workspace,
        "title": grant.title,
        "colour": grant.colour,
        "pool": grant.pool,
        "channel": grant.channel,
        "rank": grant.rank,
        "policy": json.loads(grant.policy),
        "ends": grant.ends,
    }
