"""A workspace's past on the server: one line of generations, and the branches of those who came late. Nothing is merged."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError
from twofold.model.generation import Manifest
from twofold.server import audit
from twofold.server.context import Server, nothing
from twofold.server.gate import Caller
from twofold.server.leases import Held, content, given, keys_document, merged
from twofold.server.tables import Device, Generation, Lease, Needed, Sealed
from twofold.trust.keys import VerifyKey
from twofold.trust.signed import Context, sign, verify

LINE, BRANCH, RESTORE = "line", "branch", "restore"
_MANY = 500  # rows asked for in one statement


def manifest(session: Session, caller: Caller, workspace: str, untrusted_document: object) -> Manifest:
    """A manifest that this device signed, of this workspace.

    Raises:
        BadInputError, RefusedError: it is no manifest, another's, or not signed by this device.
    """
    key = VerifyKey.from_hex(session.get_one(Device, caller.device).public)
    found = Manifest.from_wire(verify(Context.GENERATION, untrusted_document, [key]))
    if found.workspace != workspace or found.device != caller.device:
        raise BadInputError("The generation is of another workspace or device.", safe="Nothing was changed.")
    return found


def commit(
    session: Session,
    caller: Caller,
    found: Held,
    made: Manifest,
    document: Mapping[str, Any],
    head: str,
    untrusted_keys: object,
) -> tuple[Generation, bool]:
    """Make a generation part of the workspace's past, on its line or, where the lease was lost, as a branch. Returns it, and
    whether it is new.

    Raises:
        ConflictError: files of it are not here, or the newest generation is not `head`; the error names what is there.
        BadInputError: it is out of order, or its keys cannot be read.
    """
    lease, grant = found.lease, found.grant
    former = session.get(Generation, made.id)
    if former is not None:
        return former, False
    keys = keys_document(untrusted_keys, grant.workspace) if untrusted_keys is not None else None
    sizes = {file.digest: file.length for file in made.files}
    _all_here(session, grant.id, sizes)
    row = Generation(
        id=made.id, grant_id=grant.id, kind=LINE if found.now else BRANCH, parent=head, content=made.id,
        token=found.holder.token, device_id=caller.device, vault=made.vault, number=made.generation, epoch=made.epoch,
        time=made.time, committed=int(time.time()), bytes=made.length, dropped=0,
        document=canonical(document).decode(), keys=canonical(keys).decode() if keys else lease.keys,
    )  # fmt: skip
    session.add(row)
    session.flush()
    _need(session, made.id, sizes)
    if found.now:
        _on_line(session, found, made, head, keys)
    what = f"{grant.workspace} of {caller.user}, {made.generation} {made.id[:16]}, token {found.holder.token}"
    audit.record(session, caller.actor, "back up" if found.now else "late back up", what)
    return row, True


def restore(session: Session, server: Server, caller: Caller, lease: Lease, target: str, head: str) -> Generation:
    """Make an earlier generation, or a branch, the newest one; what was newest stays behind it.

    Raises:
        NotFoundError: there is none of that id, or its files are not kept any more.
        ConflictError: a device holds the lease, or the newest is not `head`.
    """
    grant, now = lease.grant, int(time.time())
    chosen = session.get(Generation, target)
    if chosen is None or chosen.grant_id != grant.id or chosen.dropped:
        raise nothing("generation")
    if lease.device_id is not None:
        raise ConflictError(
            f"'{grant.title}' is checked out on '{lease.device.name if lease.device else 'a device'}'.",
            safe="Nothing was changed.",
            next="Check it in, or break the lease, first.",
        )
    said = {
        "schema": "twofold-restore-1", "workspace": grant.workspace, "user": grant.user.name, "parent": head,
        "of": chosen.content, "time": now, "by": caller.user,
    }  # fmt: skip
    kept = _opening(session, lease, chosen)
    row = Generation(
        id=hashlib.sha256(canonical(said)).hexdigest(), grant_id=grant.id, kind=RESTORE, parent=head,
        content=chosen.content, token=lease.token, device_id=None, vault=chosen.vault, number=chosen.number,
        epoch=chosen.epoch, time=now, committed=now, bytes=chosen.bytes, dropped=0,
        document=canonical(sign(Context.GENERATION, said, server.home.signing)).decode(), keys=kept,
    )  # fmt: skip
    former = session.get(Generation, row.id)
    if former is not None:
        return former
    session.add(row)
    session.flush()
    sizes = dict(session.execute(select(Needed.digest, Needed.size).where(Needed.generation == chosen.id)).all())
    _need(session, row.id, sizes)
    free = (Lease.grant_id == grant.id, Lease.device_id.is_(None), _head_is(head))
    values = {"head": row.id, "epoch": max(lease.epoch, chosen.epoch), "keys": kept}
    if session.scalar(update(Lease).where(*free).values(**values).returning(Lease.token)) is None:
        raise _other_head(lease)
    session.refresh(lease)
    audit.record(session, caller.actor, "restore", f"{grant.workspace} of {grant.user.name}, {chosen.content[:16]}")
    return row


def listed(session: Session, grant_id: int) -> list[dict[str, Any]]:
    """The line and the branches, newest first."""
    rows = session.scalars(
        select(Generation)
        .where(Generation.grant_id == grant_id)
        .order_by(
            Generation.committed.desc(),
            Generation.number.desc(),
            Generation.id,  # several may come in one second
        )
    )
    return [described(row) for row in rows]


def described(row: Generation) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "parent": row.parent,
        "content": row.content,
        "number": row.number,
        "epoch": row.epoch,
        "token": row.token,
        "time": row.time,
        "committed": row.committed,
        "device": row.device_id or "",
        "device_name": row.device.name if row.device else "",
        "bytes": row.bytes,
        "kept": row.dropped == 0,
    }


def documents(session: Session, lease: Lease) -> dict[str, Any]:
    """What a new holder begins from: the newest generation's signed document, and its content's where that is another."""
    head = session.get(Generation, lease.head) if lease.head else None
    if head is None:
        return {"keys": None, "head": None, "content": None}
    made = session.get_one(Generation, head.content)
    return {
        "keys": given(lease.keys),
        "head": json.loads(head.document) if head.id != made.id else None,
        "content": json.loads(made.document),
    }


def _on_line(session: Session, found: Held, made: Manifest, head: str, keys: dict[str, Any] | None) -> None:
    lease = found.lease
    if (lease.head or "") != head:
        raise _other_head(lease)
    before = session.get(Generation, head) if head else None
    if made.parent != content(session, head):
        raise BadInputError("The generation does not follow the newest one.", safe="Nothing was changed.")
    # A holder's epochs only grow: once it has begun one that it was asked for, nothing older of it is taken.
    own = before is not None and before.token == found.holder.token
    least = max(found.holder.epoch, before.epoch if before is not None and own else 0)
    if made.epoch < least:
        raise BadInputError(
            f"The generation was written under key epoch {made.epoch}; this lease is at {least}.",
            safe="Nothing was changed.",
        )
    # Who holds it in one epoch only goes on. A new holder may begin from an older copy, brought in a folder.
    same = before is not None and (before.vault, before.epoch) == (made.vault, made.epoch)
    if before is not None and same and made.generation <= before.number:
        raise BadInputError(f"Generation {made.generation} cannot follow {before.number}.", safe="Nothing was changed.")
    values: dict[str, Any] = {"head": made.id, "epoch": max(lease.epoch, made.epoch)}
    if keys is not None:
        wraps = json.loads(lease.keys)["wraps"] if lease.keys else []
        values["keys"] = canonical(merged(keys, wraps)).decode()
    mine = (
        Lease.grant_id == lease.grant_id,
        Lease.token == found.holder.token,
        Lease.device_id == found.holder.device_id,
        _head_is(head),
    )
    # The fence: whatever was read above, this one statement decides.
    if session.scalar(update(Lease).where(*mine).values(**values).returning(Lease.token)) is None:
        raise _other_head(lease)
    session.refresh(lease)


def _opening(session: Session, lease: Lease, chosen: Generation) -> str:
    """The wrapped keys that open a generation: the newest, which open all older epochs of one line, or its own."""
    head = session.get(Generation, lease.head) if lease.head else None
    if not chosen.keys or not lease.keys:
        return chosen.keys or lease.keys
    newest, own = json.loads(lease.keys), json.loads(chosen.keys)
    if head is None or head.vault != chosen.vault:
        return chosen.keys
    if chosen.kind != BRANCH and all(row in newest["epochs"] for row in own["epochs"]):
        return lease.keys
    # A branch came with wraps for the device that sent it. Who was given a key of both before opens it as well.
    both = {row["epoch"] for row in own["epochs"] if row in newest["epochs"]}
    return canonical(merged(own, [wrap for wrap in newest["wraps"] if wrap["epoch"] in both])).decode()


def _all_here(session: Session, grant_id: int, sizes: Mapping[str, int]) -> None:
    there: dict[str, int] = {}
    digests = list(sizes)
    for at in range(0, len(digests), _MANY):
        some = Sealed.digest.in_(digests[at : at + _MANY])
        rows = session.execute(select(Sealed.digest, Sealed.size).where(Sealed.grant_id == grant_id, some))
        there |= dict(rows.all())
    lacking = [digest for digest, size in sizes.items() if there.get(digest) != size]
    if lacking:
        raise ConflictError(
            f"{len(lacking)} of the generation's files are not here.",
            safe="Nothing was changed.",
            next="Send them, then commit again.",
        )


def _need(session: Session, generation: str, sizes: Mapping[str, int]) -> None:
    rows = [{"generation": generation, "digest": digest, "size": size} for digest, size in sizes.items()]
    if rows:
        session.execute(insert(Needed), rows)


def _head_is(head: str) -> Any:
    return Lease.head == head if head else Lease.head.is_(None)


def _other_head(lease: Lease) -> ConflictError:
    return ConflictError(
        f"The newest generation of '{lease.grant.title}' is {lease.head or 'none'}.",
        safe="Nothing was changed.",
        next="Look at what is there, and build on it.",
    )
