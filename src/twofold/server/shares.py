"""What groups give to whom. A person's workspace has one name, one row, one past, and one grant that it is there by.

Of several grants that yield the same name, the person's own decides; else, of groups' grants, the one of the highest rank, of
equals the oldest. Only the grant that decides speaks: its title, colour, channel, end and rules hold, the others wait. When it
goes, the next one gives the same workspace on; when there is none, it ends as any grant does. A group's grant that would give a
workspace that its person cannot have (another image under the same past, or one that looks like another) is refused when it is
made or the person joins; where something that goes uncovers such a grant, that gives nothing, and nothing is refused.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from twofold.model.errors import BadInputError, ConflictError
from twofold.model.workspace import Custody
from twofold.server import audit, policies
from twofold.server.tables import Command, Grant, Group, Holder, Lease, Member, Rules, Ticket


def settle(session: Session, actor: str, users: Iterable[int], new: Collection[int] = ()) -> set[str]:
    """Bring the rows of these users (ids) in line with their own and their groups' grants. `new` are grants (numbers) that must
    not give what a person cannot have. Returns the devices that hold a workspace of which something changed.

    Raises:
        ConflictError, BadInputError: one of the new ones would; the transaction must not be committed.
    """
    rung: set[str] = set()
    for user in users:
        rung |= _settle(session, actor, user, new)
    session.flush()
    return rung


def _settle(session: Session, actor: str, user: int, new: Collection[int]) -> set[str]:
    rows = {row.workspace: row for row in session.scalars(select(Grant).where(Grant.user_id == user))}
    wanted, rung = candidates(session, user), set[str]()
    for name, row in list(rows.items()):
        if not row.own and name not in wanted and not over(row):  # before the others: it makes room for them
            rung |= end(session, actor, row)
            del rows[name]
    for name, givings in wanted.items():
        held = rows.get(name)
        if held is not None and held.own:
            continue
        for giving in givings:
            if held is not None and held.image_id != giving.image_id and not used(session, held):
                end(session, actor, held)
                held = None
            try:
                _require_room(session, user, held, giving)
                rung |= _give(session, actor, user, held, giving)
                break
            except (BadInputError, ConflictError):
                if giving.id in new:
                    raise
        else:
            if held is not None and not over(held):
                rung |= end(session, actor, held)
    return rung


def over(row: Grant) -> bool:
    return 0 < row.ends <= time.time()


def candidates(session: Session, user: int) -> dict[str, list[Grant]]:
    """By the workspace's name, the grants of a user's groups, the one that decides first."""
    theirs = select(Grant).join(Member, Member.group_id == Grant.group_id).where(Member.user_id == user)
    found: dict[str, list[Grant]] = {}
    for grant in session.scalars(theirs.order_by(Grant.rank.desc(), Grant.id)):
        found.setdefault(grant.workspace, []).append(grant)
    return found


def alike(session: Session, user: int, title: str, colour: str, but: Grant | None) -> Grant | None:
    """Another workspace of a user's that this one could be taken for."""
    looks = (Grant.title == title) | (Grant.colour == colour)
    others = select(Grant).where(Grant.user_id == user, looks)
    return session.scalar((others if but is None else others.where(Grant.id != but.id)).limit(1))


def used(session: Session, row: Grant) -> bool:
    """Whether somebody has or had a user's workspace on a device."""
    return session.scalar(select(Holder.token).where(Holder.grant_id == row.id).limit(1)) is not None


def begin(session: Session, **columns: Any) -> Grant:
    """A user's row, new, and the lease that nobody holds."""
    row = Grant(created=int(time.time()), **columns)
    session.add(row)
    session.flush()
    nobody = {"token": 0, "issued": 0, "epoch": 0, "keys": "", "since": 0, "seen": 0, "told": ""}
    session.add(Lease(grant_id=row.id, custody=Custody.CHECKED_IN, **nobody))
    session.flush()
    return row


def end(session: Session, actor: str, row: Grant) -> set[str]:
    """End a user's workspace now. One that nobody ever used is gone; any other stays listed, with its past and whoever holds it.
    Returns the device that does, if one does."""
    lease = session.get_one(Lease, row.id)
    held = {lease.device_id} if lease.device_id else set()
    audit.record(session, actor, "end grant", f"{row.workspace} of {row.user.name}")
    if not held and not used(session, row):
        for table in (Command, Ticket):  # it may have been asked for, in vain
            session.execute(delete(table).where(table.grant_id == row.id))
        session.delete(lease)
        session.flush()
        session.delete(row)
    else:
        now = int(time.time())
        row.own, row.given_id, row.ends = False, None, min(row.ends or now, now)
    session.flush()
    return held


def _require_room(session: Session, user: int, held: Grant | None, giving: Grant) -> None:
    group = giving.group.name if giving.group else ""
    if held is not None and held.image_id != giving.image_id:
        raise ConflictError(
            f"{held.workspace} of {held.user.name} (number {held.id}) stands on the image {held.image.name}; "
            f"the grant to {group} is from {giving.image.name}.",
            safe="Nothing was changed.",
            next="Give the group's workspace another name.",
        )
    other = alike(session, user, giving.title, giving.colour, held)
    if other is not None:
        raise ConflictError(
            f"{other.user.name} has '{other.title}' ({other.workspace}, {other.colour}), which looks like "
            f"'{giving.title}' ({giving.workspace}, {giving.colour}) of {group}.",
            safe="Nothing was changed.",
            next="Choose another title or colour, or remove that grant.",
        )


def _give(session: Session, actor: str, user: int, held: Grant | None, giving: Grant) -> set[str]:
    """Have `giving` decide over a user's workspace.

    Raises:
        BadInputError: what it says contradicts what other scopes say.
    """
    with session.begin_nested():
        said = {
            "title": giving.title, "colour": giving.colour, "pool": giving.pool, "channel": giving.channel,
            "ends": giving.ends, "given_id": giving.id,
        }  # fmt: skip
        if held is None:
            row, news = begin(
                session, user_id=user, own=False, rank=0, policy="{}", image_id=giving.image_id,
                workspace=giving.workspace, **said,
            ), True  # fmt: skip
        else:
            row, news = held, any(getattr(held, name) != value for name, value in said.items())
            for name, value in said.items():
                setattr(row, name, value)
        session.flush()
        session.expire(row, ["given"])
        try:
            policies.of(session, row)
        except BadInputError as off:
            raise BadInputError(f"For {row.user.name}: {off.happened}", safe="Nothing was changed.") from off
    if not news:
        return set()
    group = giving.group.name if giving.group else ""
    audit.record(
        session, actor, "give", f"{row.workspace} (number {row.id}) to {row.user.name}: grant {giving.id} to {group}"
    )
    device = session.get_one(Lease, row.id).device_id
    if device is None:
        return set()
    policies.changed(session, row)
    return {device}


def members(session: Session, group: Group) -> list[int]:
    return list(session.scalars(select(Member.user_id).where(Member.group_id == group.id)))


def told(session: Session, grant: Grant) -> list[dict[str, Any]]:
    """What a group's grant gives to each member: the number of a workspace, or 0 and why there is none."""
    rows = session.scalars(select(Member).where(Member.group_id == grant.group_id)).all()
    return [_told(session, grant, row) for row in sorted(rows, key=lambda row: row.user.name)]


def _told(session: Session, grant: Grant, member: Member) -> dict[str, Any]:
    row = session.scalar(select(Grant).where(Grant.user_id == member.user_id, Grant.workspace == grant.workspace))
    if row is not None and row.given_id == grant.id:
        return {"user": member.user.name, "number": row.id, "why": ""}
    first = row.given if row is not None else None
    if row is not None and row.own:
        why = f"grant {row.id} of their own comes first"
    elif first is not None and first.group is not None:
        why = f"grant {first.id} to {first.group.name} comes first"
    else:
        why = "another workspace of theirs is in the way"
    return {"user": member.user.name, "number": 0, "why": why}


def reached(session: Session, grant: Grant) -> list[Grant]:
    """The workspaces that a group's grant gives."""
    return list(session.scalars(select(Grant).where(Grant.given_id == grant.id)))


def forget(session: Session, grant: Grant) -> None:
    """A group's grant is no more; whom it gave to must be settled then."""
    for row in reached(session, grant):
        row.given_id = None
    session.execute(delete(Rules).where(Rules.scope == "workspace", Rules.name == str(grant.id)))
    session.flush()
    session.delete(grant)
    session.flush()
