"""Workspaces as an administrator sees them: where they are, their past, what is asked of devices; and policies by scope."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

from fastapi import APIRouter, Path
from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.names import slug
from twofold.model.policy import Scope
from twofold.server import audit, changes, commands, history, leases, policies
from twofold.server.bodies import Ask, Break, Restore, Said, Wraps
from twofold.server.context import TheCaller, TheServer, nothing
from twofold.server.once import TheOnce
from twofold.server.routes.vaults import add_wraps
from twofold.server.tables import Command, Generation, Grant, Holder, Lease, Needed, Rules, Sealed

router = APIRouter(tags=["workspaces"])
Number = Annotated[int, Path(ge=1, lt=1 << 53)]
Id = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]


@router.get("/workspaces")
def workspaces(server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        rows = session.scalars(select(Lease).order_by(Lease.grant_id))
        return {"workspaces": [leases.row(session, row) for row in rows]}


@router.get("/workspaces/{number}")
def workspace(number: Number, server: TheServer) -> dict[str, Any]:
    """One workspace, and who held it."""
    with server.database.read() as session:
        held = session.scalars(select(Holder).where(Holder.grant_id == number).order_by(Holder.token))
        row = leases.row(session, _lease(session, number))
        fields = ("token", "device_id", "since", "until", "how")
        return row | {"holders": [{name: getattr(each, name) for name in fields} for each in held]}


@router.get("/workspaces/{number}/generations")
def generations(number: Number, server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        return {"generations": history.listed(session, _lease(session, number).grant_id)}


@router.get("/workspaces/{number}/generations/{generation}")
def generation(number: Number, generation: Id, server: TheServer) -> dict[str, Any]:
    """One generation: its signed document, and its files, each with whether it is here."""
    with server.database.read() as session:
        row = session.get(Generation, generation)
        if row is None or row.grant_id != number:
            raise nothing("generation")
        own = (Sealed.digest == Needed.digest) & (Sealed.grant_id == number)
        files = session.execute(
            select(Needed.digest, Needed.size, Sealed.size).outerjoin(Sealed, own).where(Needed.generation == row.id)
        )
        listed = [{"digest": digest, "size": size, "here": held == size} for digest, size, held in files]
        return history.described(row) | {"generation": json.loads(row.document), "files": listed}


@router.get("/workspaces/{number}/loss")
def loss(number: Number, server: TheServer) -> dict[str, Any]:
    """What breaking the lease may lose."""
    with server.database.read() as session:
        return leases.loss(session, _lease(session, number))


@router.post("/workspaces/{number}/break")
def break_lease(number: Number, body: Break, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    """End the lease for its holder. What that still sends is kept as a branch."""
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        device = leases.broken(session, caller, _lease(session, number), body.loss, body.why)
        answer = once.keep(session, {"device": device})
    server.bell.ring([device])
    return answer


@router.post("/workspaces/{number}/restore", status_code=201)
def restore(number: Number, body: Restore, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    """Make an earlier generation, or a branch, the newest one."""
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        row = history.restore(session, server, caller, _lease(session, number), body.generation, body.head)
        return once.keep(session, {"id": row.id})


@router.post("/workspaces/{number}/wraps")
def wraps(number: Number, body: Wraps, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Add wraps that the holder of the recovery key made."""
    with server.database.write() as session:
        lease = _lease(session, number)
        add_wraps(lease, [wrap.model_dump(by_alias=True) for wrap in body.wraps])
        audit.record(session, caller.actor, "add wraps", f"{lease.grant.workspace} of {lease.grant.user.name}")
    return {}


@router.get("/workspaces/{number}/keys")
def keys(number: Number, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """The wrapped keys, for the holder of the recovery key to wrap anew."""
    with server.database.write() as session:
        lease = _lease(session, number)
        audit.record(session, caller.actor, "read wraps", f"{lease.grant.workspace} of {lease.grant.user.name}")
        return {"keys": json.loads(lease.keys) if lease.keys else None}


@router.get("/workspaces/{number}/commands")
def asked(number: Number, server: TheServer) -> dict[str, Any]:
    with server.database.read() as session:
        rows = session.scalars(select(Command).where(Command.grant_id == number).order_by(Command.id.desc()).limit(200))
        return {"commands": [commands.described(row) for row in rows]}


@router.post("/workspaces/{number}/commands", status_code=201)
def ask(number: Number, body: Ask, caller: TheCaller, server: TheServer, once: TheOnce) -> dict[str, Any]:
    """Ask the holder, or a device that held it before, for something. An upgrade of what nobody has is asked of the next holder:
    then the answer's `command` is 0."""
    with server.database.write() as session:
        if (former := once.former(session)) is not None:
            return dict(former)
        lease = _lease(session, number)
        if body.verb == "upgrade":
            row = changes.upgrade(session, caller.actor, lease, body.version)
        else:
            row = commands.ask(session, caller.actor, lease, body.verb, body.device)
        device = row.device_id if row is not None else None
        later = {"command": 0, "device": "", "verb": body.verb, "state": "waiting"}
        answer = once.keep(session, later if row is None else commands.described(row))
    server.bell.ring([device])
    return answer


@router.delete("/workspaces/{number}/commands/{command}")
def withdraw(number: Number, command: Number, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Take back what was not given out yet."""
    with server.database.write() as session:
        commands.withdraw(session, caller, _lease(session, number).grant, command)
    return {}


@router.get("/workspaces/{number}/policy")
def policy(number: Number, server: TheServer) -> dict[str, Any]:
    """Each rule's value, and the scope that it comes from."""
    with server.database.read() as session:
        _, rules = policies.of(session, _lease(session, number).grant)
        return {"policy": [dataclasses.asdict(rule) for rule in rules]}


@router.get("/policies")
def all_policies(server: TheServer) -> dict[str, Any]:
    """What each scope says; a group's and a workspace's own rules stand in their grants."""
    with server.database.read() as session:
        wider = Rules.scope.not_in((Scope.GROUP.value, Scope.WORKSPACE.value))
        rows = session.scalars(select(Rules).where(wider).order_by(Rules.scope, Rules.name))
        return {
            "policies": [
                {"scope": row.scope, "name": row.name, "rules": json.loads(row.said), "changed": row.changed}
                for row in rows
            ]
        }


@router.put("/policies/global")
def say_global(body: Said, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """Rules for everybody, whole."""
    return _say(server, caller, Scope.GLOBAL, "", body)


@router.put("/policies/pool/{name}")
def say_pool(name: str, body: Said, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """A pool's rules, whole."""
    return _say(server, caller, Scope.POOL, slug(name, "a pool"), body)


@router.put("/policies/user/{name}")
def say_user(name: str, body: Said, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """A user's rules, whole."""
    return _say(server, caller, Scope.USER, slug(name, "a user"), body)


@router.put("/policies/group/{number}")
def say_group(number: Number, body: Said, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """The rules of a group's grant, whole."""
    return _say(server, caller, Scope.GROUP, str(number), body)


@router.put("/policies/workspace/{number}")
def say_workspace(number: Number, body: Said, caller: TheCaller, server: TheServer) -> dict[str, Any]:
    """A workspace's own rules, whole."""
    return _say(server, caller, Scope.WORKSPACE, str(number), body)


def _say(server: TheServer, caller: TheCaller, scope: Scope, name: str, body: Said) -> dict[str, Any]:
    with server.database.write() as session:
        if scope is Scope.WORKSPACE:
            _lease(session, int(name))
        if scope is Scope.GROUP and ((grant := session.get(Grant, int(name))) is None or grant.group is None):
            raise nothing("group's grant")
        reached = policies.say(session, scope, name, body.rules)
        numbers = [grant.id for grant in reached]
        held = select(Lease.device_id).where(Lease.grant_id.in_(numbers), Lease.device_id.is_not(None))
        devices = list(session.scalars(held))
        audit.record(session, caller.actor, "policy", f"{scope} {name}: {', '.join(sorted(body.rules))}")
    server.bell.ring(devices)
    return {"workspaces": len(numbers)}


def _lease(session: Session, number: int) -> Lease:
    lease = session.get(Lease, number)
    if lease is None:
        raise nothing("workspace")
    return lease
