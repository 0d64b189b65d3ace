"""Groups of people: who is in them. What they give is said by grants (`routes.grants`, `shares`)."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from twofold.model.errors import ConflictError
from twofold.model.names import slug
from twofold.server import audit, shares
from twofold.server.bodies import Empty, NewGroup
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.once import TheOnce
from twofold.server.routes.grants import described
from twofold.server.tables import Grant, Group, Lease, Member, User

router = APIRouter(prefix="/groups", tags=["groups"])


@router.get("")
def list_groups(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        return {"groups": [_row(session, group) for group in session.scalars(select(Group).order_by(Group.name))]}


@router.post("", status_code=201)
def create_group(body: NewGroup, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    name = slug(body.name, "a group")
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        if session.scalar(select(Group.id).where(Group.name == name)) is not None:
            raise ConflictError(f"There is a group '{name}' already.", safe="Nothing was changed.")
        session.add(Group(name=name, created=int(time.time())))
        audit.record(session, caller.actor, "create group", name)
        return once.keep(session, {})


@router.get("/{name}")
def one_group(name: str, server: TheServer) -> dict[str, Any]:
    """A group, its members and its grants, and how many workspaces are there by them, and on a device now."""
    with server.database.read() as session:
        group = _group(session, name)
        own = select(Member).where(Member.group_id == group.id)
        people = sorted(session.scalars(own), key=lambda row: row.user.name)
        return _row(session, group) | {
            "people": [{"user": row.user.name, "since": row.since} for row in people],
            "given": [described(grant) for grant in _grants(session, group)],
        }


@router.delete("/{name}")
def delete_group(name: str, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """End all of a group's grants, and the group. Of its members, each keeps what another grant gives."""
    with server.database.write() as session:
        group = _group(session, name)
        everybody = shares.members(session, group)
        audit.record(session, caller.actor, "delete group", f"{group.name}, {len(everybody)} members")
        for grant in _grants(session, group):
            shares.forget(session, grant)
        session.execute(delete(Member).where(Member.group_id == group.id))
        session.flush()
        session.delete(group)
        session.flush()
        rung = shares.settle(session, caller.actor, everybody)
    server.bell.ring(rung)
    return {}


@router.put("/{name}/members/{user}")
def join(name: str, user: str, body: Empty, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Let a user in. Doing it twice is doing it once."""
    with server.database.write() as session:
        group, person = _group(session, name), _user(session, user)
        rung = set[str]()
        if session.get(Member, (group.id, person.id)) is None:
            session.add(Member(group_id=group.id, user_id=person.id, since=int(time.time())))
            session.flush()
            audit.record(session, caller.actor, "join group", f"{person.name} in {group.name}")
            new = [grant.id for grant in _grants(session, group)]
            rung = shares.settle(session, caller.actor, [person.id], new)
    server.bell.ring(rung)
    return {}


@router.delete("/{name}/members/{user}")
def leave(name: str, user: str, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Put a user out. What they have by the group alone ends as by `DELETE grants/N`."""
    with server.database.write() as session:
        group, person = _group(session, name), _user(session, user)
        member = session.get(Member, (group.id, person.id))
        if member is None:
            raise nothing("member")
        session.delete(member)
        session.flush()
        audit.record(session, caller.actor, "leave group", f"{person.name} from {group.name}")
        rung = shares.settle(session, caller.actor, [person.id])
    server.bell.ring(rung)
    return {}


def _row(session: Session, group: Group) -> dict[str, Any]:
    numbers = select(Grant.id).where(Grant.group_id == group.id)
    there = select(func.count()).select_from(Lease).join(Grant).where(Grant.given_id.in_(numbers))
    return {
        "name": group.name,
        "created": group.created,
        "members": session.scalar(select(func.count()).select_from(Member).where(Member.group_id == group.id)),
        "grants": session.scalar(select(func.count()).select_from(numbers.subquery())),
        "workspaces": session.scalar(there),
        "out": session.scalar(there.where(Lease.device_id.is_not(None))),
    }


def _grants(session: Session, group: Group) -> list[Grant]:
    return list(session.scalars(select(Grant).where(Grant.group_id == group.id).order_by(Grant.id)))


def _group(session: Session, name: str) -> Group:
    found = session.scalar(select(Group).where(Group.name == name))
    if found is None:
        raise nothing("group")
    return found


def _user(session: Session, name: str) -> User:
    found = session.scalar(select(User).where(User.name == name))
    if found is None:
        raise nothing("user")
    return found
