"""Workspaces on nodes: who may have one opened there, where each is now, and how it gets from a node to the person's device.

A node is enrolled by an administrator and holds nothing itself. For each user it has a *seat*: a device of that user's, on that
node, which takes leases as any device does, but only those that its user has asked to see (docs/decisions/0020-nodes.md).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.errors import ConflictError, MissingError, RefusedError
from twofold.server import audit, commands, policies
from twofold.server.accounts import digest, new_code
from twofold.server.context import nothing
from twofold.server.gate import Caller
from twofold.server.tables import Command, Device, Generation, Grant, Invitation, Lease
from twofold.trust.vouch import DEVICE, NODE

EXTENSION = "online-1"
SEAT = "seat"  # a kind of device, and what a node is asked for
OPEN, RELEASE = "open", "release"
ALIVE = 90  # seconds since a node was last heard of; it asks for news all the time
_CODE_SECONDS = 120


@dataclass(frozen=True)
class Desktop:
    """A workspace as its user sees it. `state`: `ready` (can be opened), `opening`, `held` (a node runs it), `leaving` (on
    its way to a device), `elsewhere` (on the device `place`), `failed`. The three sentences say why, where there is
    something to say."""

    workspace: str
    title: str
    colour: str
    state: str
    place: str = ""
    backed_up: int = 0
    happened: str = ""
    safe: str = ""
    next: str = ""


def leases_of(session: Session, user_id: int) -> list[Lease]:
    """All of a user's workspaces, in their order."""
    now = int(time.time())
    own = select(Lease).join(Grant).where(Grant.user_id == user_id).order_by(Grant.id)
    return [lease for lease in session.scalars(own) if not 0 < lease.grant.ends <= now]


def mine(session: Session, user_id: int, workspace: str) -> Lease:
    """
    Raises:
        NotFoundError: this user has none of that name.
    """
    own = (Grant.user_id == user_id, Grant.workspace == workspace)
    lease = session.scalar(select(Lease).join(Grant).where(*own))
    if lease is None or 0 < lease.grant.ends <= time.time():
        raise nothing("workspace")
    return lease


def desktop(session: Session, lease: Lease) -> Desktop:
    """Where a workspace is, by what the database says."""
    grant, holder = lease.grant, lease.device
    told = json.loads(lease.told) if lease.told else {}
    head = session.get(Generation, lease.head) if lease.head else None
    backed_up = head.committed if head else 0
    base = Desktop(grant.workspace, grant.title, grant.colour, "ready", backed_up=backed_up)
    if holder is not None and holder.kind != SEAT:
        return _said(
            base, "elsewhere", holder.name, f"{grant.title} is on {holder.name}.",
            "All of it is there; what was backed up is here too.",
            f"To open it here, check it in there:  twofold checkin {grant.workspace}",
        )  # fmt: skip
    last = _last(session, grant)
    going = last is not None and last.state in commands.OPEN
    if last is not None and going and last.verb == RELEASE:
        return _said(
            base, "leaving", "", f"{grant.title} is being shut down and backed up, to go to a device of yours."
        )
    if last is not None and going:
        return _said(base, "opening", _name(session, last.device_id))
    if last is not None and last.state == "failed" and last.verb in (OPEN, SEAT):
        return _said(base, "failed", "", *_sentences(last))
    if holder is not None and told.get("run") in ("running", "paused", "starting", "resuming"):
        return _said(base, "held", holder.name)
    return base


def open_(session: Session, caller: Caller, lease: Lease) -> str:
    """Have a workspace opened on a node; asking for what is under way changes nothing. Returns the machine to be woken.

    Raises:
        RefusedError: the company says no. ConflictError: a device has it. MissingError: there is no node.
    """
    grant, now = lease.grant, int(time.time())
    policy, _ = policies.of(session, grant)
    if not policy.keys_leave or 0 < policy.ends <= now:
        raise RefusedError(
            f"Your company does not let {grant.title} be opened online.",
            safe="Nothing was changed.",
            next=f"Bring it to a device of yours:  twofold checkout {grant.workspace}",
        )
    state = desktop(session, lease)
    if state.state in ("elsewhere", "leaving"):
        raise ConflictError(state.happened, safe=state.safe or "Nothing was changed.", next=state.next)
    if state.state == "opening":
        running = _last(session, grant)
        return running.device_id if running else ""
    machine = lease.device if lease.device is not None else _where(session, caller.user_id)
    verb = OPEN if machine.kind == SEAT else SEAT
    return _ask(session, caller, lease, machine, verb).device_id


def _where(session: Session, user_id: int) -> Device:
    """The user's seat on a node that is there, or else such a node.

    Raises:
        MissingError: there is none.
    """
    alive = (Device.kind == NODE, Device.revoked == 0, Device.seen >= int(time.time()) - ALIVE)
    nodes = session.scalars(select(Device).where(*alive).order_by(Device.seen.desc())).all()
    if not nodes:
        raise MissingError(
            "No node of your company can be reached.",
            safe="Nothing was changed; your work is on the server.",
            next="Try again in a minute, or bring it to a device of yours:  twofold checkout",
        )
    own = (Device.kind == SEAT, Device.user_id == user_id, Device.revoked == 0)
    seats = session.scalars(select(Device).where(*own, Device.node_id.in_([node.id for node in nodes]))).all()
    return seats[0] if seats else nodes[0]


def _ask(session: Session, caller: Caller, lease: Lease, machine: Device, verb: str) -> Command:
    made = Command(
        grant_id=lease.grant_id, device_id=machine.id, token=lease.token if lease.device_id == machine.id else 0,
        verb=verb, version=0, state="waiting", asked=int(time.time()), asked_by=caller.actor, given=0, ended=0, receipt="",
    )  # fmt: skip
    session.add(made)
    session.flush()
    audit.record(session, caller.actor, f"ask {verb}", f"{lease.grant.workspace} on {machine.name}, number {made.id}")
    return made


def seat_code(session: Session, caller: Caller, number: int) -> dict[str, Any]:
    """The one-time code for the seat that a node was asked for, and whose it is.

    Raises:
        NotFoundError: it was not asked.
    """
    row = session.get(Command, number)
    if row is None or row.device_id != caller.device or row.verb != SEAT or row.state not in commands.OPEN:
        raise nothing("request")
    grant, code, now = session.get_one(Grant, row.grant_id), new_code(), int(time.time())
    made = Invitation(
        digest=digest(code),
        user_id=grant.user_id,
        expires=now + _CODE_SECONDS,
        used=0,
        kind=SEAT,
        node_id=caller.device,
    )
    session.add(made)
    return {"user": grant.user.name, "code": code}


def seated(session: Session, seat: Device) -> None:
    """A seat is there: what its node was asked for is asked of it. A former seat of that user there is no more."""
    former = (Device.kind == SEAT, Device.user_id == seat.user_id, Device.node_id == seat.node_id, Device.id != seat.id)
    for each in session.scalars(select(Device).where(*former, Device.revoked == 0)):
        each.revoked = int(time.time())
    asked = (Command.device_id == seat.node_id, Command.verb == SEAT, Command.state.in_(commands.OPEN))
    for row in session.scalars(select(Command).join(Grant).where(*asked, Grant.user_id == seat.user_id)).all():
        same = {"grant_id": row.grant_id, "asked": row.asked, "asked_by": row.asked_by, "given": 0, "ended": 0}
        session.add(Command(device_id=seat.id, token=0, verb=OPEN, version=0, state="waiting", receipt="", **same))


def require_asked(session: Session, caller: Caller, lease: Lease) -> None:
    """A seat takes what its user has asked to see and nothing else; a node takes nothing.

    Raises:
        RefusedError: it was not asked.
    """
    kind = session.get_one(Device, caller.device).kind
    asked = lease.device_id == caller.device or commands.asked(session, caller, lease.grant, OPEN)
    if kind == NODE or (kind == SEAT and not asked):
        raise RefusedError("Nobody has asked for this workspace here.", safe="Nothing was changed.")


def releasing(session: Session, caller: Caller, workspace: str, number: int) -> dict[str, Any] | None:
    """A device wants what a node of its company has: the node is asked to shut it down, back it up and give it back. Returns
    what to wait for; None where there is nothing to wait for. `number` is that of the request that the device waits for, 0
    at first.

    Raises:
        ConflictError: the node could not.
    """
    lease = mine(session, caller.user_id, workspace)
    asked = session.get(Command, number) if number else None
    if asked is not None and asked.grant_id == lease.grant_id and asked.state == "failed":
        happened, safe, next_ = _sentences(asked)
        raise ConflictError(
            f"{lease.grant.title} could not be given back: {happened}",
            safe=safe or "It goes on where it was.",
            next=next_ or "Open it online, shut it down there, and try again.",
        )
    holder = lease.device
    if holder is None or holder.kind != SEAT or session.get_one(Device, caller.device).kind != DEVICE:
        return None
    row = commands.ask(session, caller.actor, lease, RELEASE)
    return {"request": row.id, "place": holder.name, "machine": holder.id}


def _last(session: Session, grant: Grant) -> Command | None:
    """The newest request that concerns a node, whoever was asked."""
    verbs = (Command.grant_id == grant.id, Command.verb.in_((OPEN, SEAT, RELEASE)))
    return session.scalar(select(Command).where(*verbs).order_by(Command.id.desc()).limit(1))


def _name(session: Session, device: str) -> str:
    found = session.get(Device, device)
    return found.name if found else ""


def _said(base: Desktop, state: str, place: str, happened: str = "", safe: str = "", next_: str = "") -> Desktop:
    return Desktop(
        base.workspace, base.title, base.colour, state, place, base.backed_up, happened, safe, next_
    )  # fmt: skip


def _sentences(row: Command) -> tuple[str, str, str]:
    """What a machine said of why it could not: lines, as errors are printed."""
    detail = str(json.loads(row.receipt).get("detail", "")) if row.receipt else ""
    happened, safe, next_, *_ = [*detail.split("\n"), "", "", ""]
    return happened or "The node could not open it.", safe, next_
