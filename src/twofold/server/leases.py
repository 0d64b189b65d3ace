"""Who may run a workspace now. Each move of a lease is one compare-and-set; what is signed here is what a device believes."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from twofold.model import lease as model
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, ConflictError, RefusedError, TwofoldError
from twofold.model.release import STABLE, none_for
from twofold.model.workspace import CUSTODY_MOVES, Custody, move
from twofold.server import audit, commands, policies, roles
from twofold.server.context import Server, nothing
from twofold.server.gate import Caller
from twofold.server.tables import Command, Device, Fact, Generation, Grant, Holder, Image, Lease, Version
from twofold.trust.signed import Context, sign, verify
from twofold.trust.vouch import NODE

EXTENSION, EPOCHS, ARCHITECTURES, CHANNELS = "generations-1", "epochs-1", "architectures-1", "channels-1"
FLOOR = "token_floor"
KEYS_LIMIT = 96 << 10  # bytes of wrapped keys, as in crates/vaultd/src/keys.rs


def alive() -> Any:
    """The condition that a grant has not ended."""
    return or_(Grant.ends == 0, Grant.ends > int(time.time()))


def granted(caller: Caller) -> Any:
    return select(Grant).where(Grant.user_id == caller.user_id, alive()).order_by(Grant.id)


def leased_versions(caller: Caller) -> Any:
    """The image versions that a device holds a lease on, and those that it goes to or may go back to."""
    mine = (Lease.device_id == caller.device, alive())
    columns = (Lease.version_id, Lease.next_id, Lease.former_id)
    held = (Version.id.in_(select(column).join(Grant, Grant.id == Lease.grant_id).where(*mine)) for column in columns)
    return select(Version.id).join(Image).where(or_(*held))


def take(session: Session, caller: Caller, workspace: str, arch: str, *, speaks: bool, channels: bool = False) -> Lease:
    """Move the lease to this device. A device that holds it already gets it again, as it is. One that knows of no `channels` is
    given what stable has: it would refuse anything else.

    Raises:
        NotFoundError: no such grant. RefusedError: the policy says no. ConflictError: another device holds it; or there is
        nothing for `arch`, where the device has said what it is; or this one is to erase it and has not said yet that it did,
        which will free this very lease.
    """
    grant = session.scalar(granted(caller).where(Grant.workspace == workspace))
    version = None
    if grant is not None:
        channel = grant.channel if channels else STABLE
        version = roles.version_for(session, grant.image, caller.device, arch, channel)
    if grant is None or version is None:
        raise nothing("workspace")
    lease, now = session.get_one(Lease, grant.id), int(time.time())
    if lease.device_id == caller.device:
        if commands.asked(session, caller, grant, "wipe", token=lease.token):
            raise ConflictError(
                f"Your company has asked for '{grant.title}' to be erased from this device.",
                safe="What was backed up is on the server.",
                next="Once the server has heard that it was, a moment from now, do the same again.",
            )
        return lease
    newest, version = version, _stands_on(session, lease) or version
    if arch and version.variant(arch) is None:
        newer = newest.version if newest.variant(arch) is not None else 0
        raise none_for(grant.image.name, version.version, arch, [each.arch for each in version.variants], newer)
    policy, _ = policies.of(session, grant)
    if (not policy.checkout and session.get_one(Device, caller.device).kind == "device") or 0 < policy.ends <= now:
        raise RefusedError(f"Your company does not let '{grant.title}' be taken to a device.")
    # The move is one compare-and-set: it happens only to a lease that nobody holds, from the token that was read.
    free = (Lease.grant_id == grant.id, Lease.device_id.is_(None), Lease.token == lease.token)
    state = move(CUSTODY_MOVES, Custody.CHECKED_IN, Custody.CHECKING_OUT, grant.title)
    if not speaks:  # a device of the first protocol says nothing of how far it is
        state = move(CUSTODY_MOVES, state, Custody.CHECKED_OUT, grant.title)
    floor = session.get(Fact, FLOOR)
    values: dict[str, Any] = {
        "custody": state, "device_id": caller.device, "version_id": version.id, "since": now, "seen": now, "told": "",
        "token": max(lease.token + 1, floor.value if floor else 0),
    }  # fmt: skip
    if session.scalar(update(Lease).where(*free).values(**values).returning(Lease.token)) is None:
        raise ConflictError(
            f"'{grant.title}' is checked out on '{lease.device.name if lease.device else 'another device'}'.",
            safe="Nothing was changed there or here.",
            next="Check it in on that device, or ask your administrator to release it.",
        )
    session.refresh(lease)
    session.add(_holder(lease, caller.device, lease.epoch + 1, now))
    audit.record(session, caller.actor, "check out", f"{grant.workspace} of {caller.user}, token {lease.token}")
    return lease


def _stands_on(session: Session, lease: Lease) -> Version | None:
    """The image version that the newest generation's disks stand on: who goes on from it needs that one, whatever is newer."""
    made = session.get(Generation, content(session, lease.head)) if lease.head else None
    if made is None:
        return None
    said = json.loads(base64.b64decode(json.loads(made.document)["payload"]))
    known = (Version.image_id == lease.grant.image_id, Version.version == said["image_version"])
    return session.scalar(select(Version).where(*known)) if said["image"] == lease.grant.image.name else None


def signed(session: Session, server: Server, lease: Lease, *, speaks: bool, epochs: bool = False) -> dict[str, Any]:
    """The lease as its holder gets it, of the schema that it asked for, good from now on. `epochs`: it begins a new key epoch
    where it is asked to."""
    grant, now = lease.grant, int(time.time())
    policy, _ = policies.of(session, grant)
    assert lease.version is not None  # a held lease names its version
    assert lease.device_id is not None
    ends = [day for day in (grant.ends, policy.ends) if day]
    added: dict[str, Any] = {}
    if speaks:
        ends.append(now + policy.offline_seconds)
        holder = session.get_one(Holder, (grant.id, lease.token))
        least = max(holder.epoch, holder.wanted if epochs else 0, 1)
        added = {"epoch": least, "head": lease.head or "", "content": content(session, lease.head)}
    lease.issued = now
    body = model.Lease(
        workspace=grant.workspace, title=grant.title, colour=grant.colour, user=grant.user.name, device=lease.device_id,
        token=lease.token, image=grant.image.name, image_version=lease.version.version, issued=now,
        expires=min(ends, default=0), policy=policy, **added,
    )  # fmt: skip
    return sign(Context.LEASE, body.to_wire(), server.home.signing)


def content(session: Session, generation: str | None) -> str:
    """The manifest that a generation is: its own, or what was restored."""
    return session.scalar(select(Generation.content).where(Generation.id == generation)) or "" if generation else ""


@dataclass(frozen=True)
class Held:
    """A token that a device holds or held; `now`: it is the lease of now."""

    grant: Grant
    lease: Lease
    holder: Holder
    now: bool


def held(
    session: Session, server: Server, caller: Caller, workspace: str, token: int, untrusted_lease: object = None
) -> Held:
    """What the server knows of a token that a device says it holds or held; a lease that this server signed is proof as well.

    Raises:
        NotFoundError: it never did, as far as can be known.
    """
    mine = (Grant.user_id == caller.user_id, Grant.workspace == workspace)
    lease = session.scalar(select(Lease).join(Grant).where(*mine))
    if lease is None:
        raise nothing("workspace")
    holder = session.get(Holder, (lease.grant_id, token))
    if holder is None and untrusted_lease is not None:
        holder = _proved(session, server, caller, lease, token, untrusted_lease)
    if holder is None or holder.device_id != caller.device:
        raise nothing("workspace")
    return Held(lease.grant, lease, holder, lease.token == token and lease.device_id == caller.device)


def _proved(
    session: Session, server: Server, caller: Caller, lease: Lease, token: int, untrusted_lease: object
) -> Holder | None:
    """A lease given out after the backup that this server was restored from. The newest of them is taken up again."""
    try:
        shown = model.Lease.from_wire(verify(Context.LEASE, untrusted_lease, [server.home.signing.verify_key]))
    except TwofoldError:
        return None
    theirs = (shown.device, shown.workspace, shown.user, shown.token)
    if theirs != (caller.device, lease.grant.workspace, caller.user, token):
        return None
    now = int(time.time())
    # What it was asked for may be in what it shows, and it may not have begun it yet.
    holder = _holder(lease, caller.device, min(shown.epoch, lease.epoch + 1), now)
    holder.token, holder.wanted = token, shown.epoch
    floor = session.get(Fact, FLOOR)
    version = session.scalar(
        select(Version).join(Image).where(Image.name == shown.image, Version.version == shown.image_version)
    )
    if floor is not None and version is not None and lease.token < token < floor.value:
        if lease.device_id is not None:
            _ended(session, lease, "superseded")
        older = (Lease.grant_id == lease.grant_id, Lease.token < token)
        taken = {"token": token, "device_id": caller.device, "version_id": version.id, "since": now, "seen": now}
        session.execute(update(Lease).where(*older).values(**taken, custody=Custody.CHECKED_OUT))
        session.refresh(lease)
        audit.record(session, caller.actor, "lease taken up", f"{shown.workspace} of {caller.user}, token {token}")
    else:
        holder.until, holder.how = now, "superseded"
    session.add(holder)
    session.flush()
    return holder


def want_epochs(session: Session, revoked: Device) -> list[str]:
    """Ask for a new key epoch wherever a device that is no longer trusted may know the key of now, which the holder may have
    given it, here or in a folder that the server never saw: its user's workspaces, those whose keys here have a wrap for it, and
    for a node everybody's. Returns the devices that are to hear of it."""
    held = select(Lease).join(Grant).where(Lease.device_id.is_not(None), Lease.device_id != revoked.id)
    if revoked.kind != NODE:
        wrap = hashlib.sha256(bytes.fromhex(revoked.wrap_public)).hexdigest()
        held = held.where(or_(Grant.user_id == revoked.user_id, Lease.keys.contains(wrap)))
    holders = []
    for lease in session.scalars(held).all():
        holder = session.get_one(Holder, (lease.grant_id, lease.token))
        holder.wanted = max(holder.epoch, holder.wanted, lease.epoch) + 1
        holders.append(holder.device_id)
    return holders


def leave(session: Session, caller: Caller, found: Held, how: str, head: str | None = None) -> None:
    """Give the lease back, if it is the lease of now; `head` must be the newest generation where it is given.

    Raises:
        ConflictError: the server's newest generation is another.
    """
    lease, grant = found.lease, found.grant
    mine = [Lease.grant_id == grant.id, Lease.token == found.holder.token, Lease.device_id == caller.device]
    if head is not None:
        mine.append(Lease.head == head if head else Lease.head.is_(None))
    state = Custody(lease.custody)
    if state is Custody.CHECKED_OUT:
        state = move(CUSTODY_MOVES, state, Custody.CHECKING_IN, grant.title)
    move(CUSTODY_MOVES, state, Custody.CHECKED_IN, grant.title)
    _ended(session, lease, how)
    free = {"device_id": None, "version_id": None, "former_id": None, "custody": Custody.CHECKED_IN, "told": ""}
    if session.scalar(update(Lease).where(*mine).values(**free).returning(Lease.token)) is None:
        raise ConflictError(
            f"The newest back up of '{grant.title}' on the server is {lease.head or 'none'}, not what this device has.",
            safe="Nothing was changed; what is on the device is not affected.",
            next="Back up again, then check in.",
        )
    session.refresh(lease)
    audit.record(session, caller.actor, how, f"{grant.workspace} of {grant.user.name}, token {found.holder.token}")


def loss(session: Session, lease: Lease) -> dict[str, Any]:
    """What breaking a lease may lose, and a digest of the facts that this was said of."""
    head = session.get(Generation, lease.head) if lease.head else None
    now = int(time.time())
    facts = {"token": lease.token, "device": lease.device_id or "", "head": lease.head or ""}
    last = head.committed if head and lease.since <= head.committed else lease.since
    policy, _ = policies.of(session, lease.grant)
    said = {
        "backed_up": head.committed if head else 0,
        "unsaved_seconds": max(0, now - last) if lease.device_id else 0,
        "seen": lease.seen,
        "may_run_until": max(lease.issued + policy.offline_seconds, now) if lease.device_id else 0,
        "device_name": lease.device.name if lease.device else "",
    }
    return facts | said | {"loss": hashlib.sha256(canonical(facts)).hexdigest()}


def broken(session: Session, caller: Caller, lease: Lease, agreed: str, why: str) -> str:
    """End a lease for its holder, by an administrator who was told what that may lose. Returns the device that held it.

    Raises:
        ConflictError: nobody holds it, or what may be lost is not what was agreed to.
    """
    if lease.device_id is None:
        raise ConflictError(f"Nobody holds '{lease.grant.title}'.", safe="Nothing was changed.")
    if loss(session, lease)["loss"] != agreed:
        raise ConflictError(
            "What may be lost has changed since you were told.", safe="Nothing was changed.", next="Look again."
        )
    device, token = lease.device_id, lease.token
    _ended(session, lease, "broken")
    mine = (Lease.grant_id == lease.grant_id, Lease.token == token, Lease.device_id == device)
    free = {"device_id": None, "version_id": None, "former_id": None, "custody": Custody.CHECKED_IN, "told": ""}
    session.execute(update(Lease).where(*mine).values(**free))
    session.refresh(lease)
    what = f"{lease.grant.workspace} of {lease.grant.user.name}, token {token}, device {device[:16]}: {why}"
    audit.record(session, caller.actor, "break lease", what)
    return device


def row(session: Session, lease: Lease) -> dict[str, Any]:
    """A workspace as administrators see it: View's columns, without the person's host name and addresses."""
    grant, now = lease.grant, int(time.time())
    told = json.loads(lease.told) if lease.told else {}
    transfer = told.get("transfer") or {}
    policy, _ = policies.of(session, grant)
    head = session.get(Generation, lease.head) if lease.head else None
    branches = select(func.count(Generation.id)).where(Generation.grant_id == grant.id, Generation.kind == "branch")
    waiting = select(Command.verb).where(Command.grant_id == grant.id, Command.state.in_(("waiting", "given")))
    out = lease.device_id is not None
    return {
        "number": grant.id,
        "user": grant.user.name,
        "workspace": grant.workspace,
        "title": grant.title,
        "pool": grant.pool,
        "group": grant.given.group.name if grant.given and grant.given.group else "",
        "channel": grant.channel,
        "image": grant.image.name,
        "version": lease.version.version if lease.version else 0,
        "next_version": lease.next.version if lease.next else 0,
        "status": lease.custody,
        "paused": transfer.get("state") == "paused",
        "transfer": transfer,
        "run": str(told.get("run", "")),
        "since": lease.since if out else 0,
        "device": lease.device_id or "",
        "device_name": lease.device.name if lease.device else "",
        "contact": lease.seen,
        "offline_for": now - lease.seen if out else 0,
        "backed_up": head.committed if head else lease.since,
        "verified": int(told.get("verified", 0)),
        "lease_left": max(0, lease.issued + policy.offline_seconds - now) if out else 0,
        "token": lease.token,
        "head": lease.head or "",
        "branches": session.scalar(branches),
        "asked": list(session.scalars(waiting.order_by(Command.id))),
        "ends": grant.ends,
    }


def _holder(lease: Lease, device: str, epoch: int, since: int) -> Holder:
    return Holder(
        grant_id=lease.grant_id, token=lease.token, device_id=device, epoch=epoch, since=since, until=0, how=""
    )


def _ended(session: Session, lease: Lease, how: str) -> None:
    holder = session.get(Holder, (lease.grant_id, lease.token))
    if holder is not None and not holder.how:
        holder.until, holder.how = int(time.time()), how


def keys_document(untrusted_keys: object, workspace: str) -> dict[str, Any]:
    """Validate wrapped keys (docs/keys.md) for shape; that a wrap opens can be known by its device alone.

    Raises:
        BadInputError: they are something else, or another workspace's.
    """
    off = BadInputError("The wrapped keys cannot be read.", safe="Nothing was changed.")
    if not isinstance(untrusted_keys, dict) or untrusted_keys.keys() != {"schema", "workspace", "epochs", "wraps"}:
        raise off
    epochs, wraps = untrusted_keys["epochs"], untrusted_keys["wraps"]
    if untrusted_keys["schema"] != "twofold-keys-1" or untrusted_keys["workspace"] != workspace:
        raise off
    if not isinstance(epochs, list) or not isinstance(wraps, list):
        raise off
    for rows, fields in ((epochs, {"epoch", "older"}), (wraps, {"epoch", "for", "id", "sealed"})):
        for entry in rows:
            if not isinstance(entry, dict) or entry.keys() != fields or type(entry["epoch"]) is not int:
                raise off
            if not all(type(value) is str for name, value in entry.items() if name != "epoch"):
                raise off
    if len(canonical(untrusted_keys)) > KEYS_LIMIT:
        raise off
    return untrusted_keys


def merged(keys: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys with further wraps of epochs that are in them."""
    known = {entry["epoch"] for entry in keys["epochs"]}
    there = {(wrap["epoch"], wrap["for"], wrap["id"]) for wrap in keys["wraps"]}
    new = [wrap for wrap in others if wrap["epoch"] in known and (wrap["epoch"], wrap["for"], wrap["id"]) not in there]
    return keys | {"wraps": [*keys["wraps"], *new]}


def given(keys: str) -> dict[str, Any] | None:
    """The kept keys as a device gets them: of the wraps for one recipient the newest, which opens all older epochs. All are kept,
    for branches that parted before."""
    if not keys:
        return None
    held: dict[str, Any] = json.loads(keys)
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for wrap in held["wraps"]:
        who = (wrap["for"], wrap["id"])
        if who not in newest or newest[who]["epoch"] < wrap["epoch"]:
            newest[who] = wrap
    return held | {"wraps": list(newest.values())}
