"""What administrators ask of devices: given out at each heartbeat until a receipt comes, at once where a device waits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import ConflictError
from twofold.server import audit
from twofold.server.context import Server, nothing
from twofold.server.gate import Caller
from twofold.server.tables import Command, Grant, Holder, Lease, Rules, Version
from twofold.trust.signed import Context, sign

VERBS = ("lock", "unlock", "wipe", "replicate", "discard", "replicate-discard", "reset", "upgrade")
OPEN = ("waiting", "given")


def ask(session: Session, actor: str, lease: Lease, verb: str, device: str = "", version: int = 0) -> Command:
    """Ask a device for something: the holder, or one that held the lease before. Asking for what waits already changes nothing;
    of upgrades only the last counts, and of what was asked under an older lease nothing.

    Raises:
        NotFoundError: it never held this workspace. ConflictError: nobody holds it and no device is named.
    """
    grant = lease.grant
    if not device and lease.device_id is None:
        raise ConflictError(f"Nobody holds '{grant.title}'.", safe="Nothing was changed.")
    whose = (Holder.grant_id == grant.id, Holder.device_id == (device or lease.device_id))
    holder = session.scalar(select(Holder).where(*whose).order_by(Holder.token.desc()).limit(1))
    if holder is None:
        raise nothing("device")
    same = (Command.grant_id == grant.id, Command.device_id == holder.device_id, Command.verb == verb)
    there = session.scalar(select(Command).where(*same, Command.state.in_(OPEN)))
    if there is not None and (there.version, there.token) == (version, holder.token):
        return there
    if there is not None:
        there.state, there.ended = "withdrawn", int(time.time())
    made = Command(
        grant_id=grant.id, device_id=holder.device_id, token=holder.token, verb=verb, state="waiting", version=version,
        asked=int(time.time()), asked_by=actor, given=0, ended=0, receipt="",
    )  # fmt: skip
    session.add(made)
    session.flush()
    audit.record(session, actor, f"ask {verb}", f"{grant.workspace} of {grant.user.name}, number {made.id}")
    return made


def asked(session: Session, caller: Caller, grant: Grant, *verbs: str, token: int | None = None) -> bool:
    """Whether an administrator has asked one of these of this device (under this lease), and no receipt has come yet."""
    mine = [Command.device_id == caller.device, Command.grant_id == grant.id, Command.state.in_(OPEN)]
    mine += [Command.token == token] if token is not None else []
    return session.scalar(select(Command.id).where(*mine, Command.verb.in_(verbs)).limit(1)) is not None


def given(session: Session, server: Server, caller: Caller) -> list[dict[str, Any]]:
    """Everything that waits for this device, signed."""
    rows = session.scalars(
        select(Command).where(Command.device_id == caller.device, Command.state.in_(OPEN)).order_by(Command.id)
    ).all()
    signed = []
    for row in rows:
        if row.state == "waiting":
            row.state, row.given = "given", int(time.time())
        said = {
            "schema": "twofold-command-1", "command": row.id, "device": row.device_id,
            "workspace": session.get_one(Grant, row.grant_id).workspace, "token": row.token, "verb": row.verb,
            "asked": row.asked, "by": row.asked_by,
        } | ({"version": row.version} if row.version else {})  # fmt: skip
        signed.append(sign(Context.COMMAND, said, server.home.signing))
    return signed


def receipt(session: Session, caller: Caller, number: int, result: str, detail: str) -> None:
    """Store what a device says that it did, once. A receipt for what is not its own, or is over, changes nothing."""
    row = session.get(Command, number)
    if row is None or row.device_id != caller.device or row.state not in OPEN:
        return
    row.state, row.ended = "done" if result == "done" else "failed", int(time.time())
    row.receipt = canonical({"result": result, "detail": detail}).decode()
    grant = session.get_one(Grant, row.grant_id)
    audit.record(session, caller.actor, f"{row.verb}: {row.state}", f"{grant.workspace}, number {number}: {detail}")
    if row.verb == "upgrade" and row.state == "failed":
        wanted = (Lease.grant_id == row.grant_id, Version.version == row.version)
        lease = session.scalar(select(Lease).join(Version, Lease.next_id == Version.id).where(*wanted))
        if lease is not None:
            lease.next_id = None
    if row.verb == "wipe" and row.state == "done":
        # Nothing of it is there any more: the lease is free. One statement, and only if it is that device's still, and not one
        # that it took after it had given this one back.
        mine = (Lease.grant_id == row.grant_id, Lease.device_id == caller.device, Lease.token == row.token)
        free = {"device_id": None, "version_id": None, "former_id": None, "custody": "checked-in", "told": ""}
        token = session.scalar(update(Lease).where(*mine).values(**free).returning(Lease.token))
        if token is not None:
            holder = session.get_one(Holder, (row.grant_id, token))
            holder.until, holder.how = row.ended, "wiped"
            session.flush()
            session.expire_all()


def withdraw(session: Session, caller: Caller, grant: Grant, number: int) -> None:
    """
    Raises:
        NotFoundError: there is no such request. ConflictError: it was given out already.
    """
    row = session.get(Command, number)
    if row is None or row.grant_id != grant.id:
        raise nothing("request")
    if row.state == "withdrawn":
        return
    if row.state != "waiting":
        raise ConflictError("The device has been told already.", safe="Nothing was changed.")
    row.state, row.ended = "withdrawn", int(time.time())
    audit.record(session, caller.actor, "withdraw", f"{row.verb} of {grant.workspace}, number {number}")


def described(row: Command) -> dict[str, Any]:
    return {
        "command": row.id, "device": row.device_id, "verb": row.verb, "version": row.version, "state": row.state,
        "asked": row.asked, "by": row.asked_by, "given": row.given, "ended": row.ended,
        "receipt": json.loads(row.receipt) if row.receipt else None,
    }  # fmt: skip


def news(session: Session, device: str, since: int) -> bool:
    """Whether there is something that a device has not heard: a request, a lease or a grant that ended, rules that changed."""
    waits = select(Command.id).where(Command.device_id == device, Command.state == "waiting")
    # Of the very second of its last heartbeat too: that may have been answered before.
    ended = select(Holder.token).where(Holder.device_id == device, Holder.until >= since, Holder.how == "broken")
    over = Grant.ends.between(max(since, 1), int(time.time()))
    granted = select(Grant.id).join(Lease, Lease.grant_id == Grant.id).where(Lease.device_id == device, over)
    changed = select(Rules.scope).where(Rules.changed >= since)
    return any(session.scalar(query.limit(1)) is not None for query in (waits, ended, granted, changed))


class Bell:
    """Tells those who wait in this process that there is news. Others find it in the database a little later."""

    def __init__(self) -> None:
        self._rung: dict[str, int] = {}
        self._lock = threading.Lock()

    def ring(self, devices: Iterable[str | None]) -> None:
        with self._lock:
            for device in devices:
                if device:
                    self._rung[device] = self._rung.get(device, 0) + 1

    def count(self, device: str) -> int:
        return self._rung.get(device, 0)
