"""Which policy a workspace is under: what the scopes in the database say, put together (`model.policy`)."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError
from twofold.model.policy import Policy, Rule, Scope, explained, rules
from twofold.server.tables import Grant, Rules, User


def of(session: Session, grant: Grant) -> tuple[Policy, tuple[Rule, ...]]:
    """A grant's policy, and the scope that each rule comes from."""
    return _together(_wide(session), grant)


def of_user(session: Session, user: str) -> Policy:
    """What holds for a person whatever the workspace: how many devices."""
    wide = _wide(session)
    names = ((Scope.GLOBAL, ""), (Scope.USER, user))
    return explained((scope, name, wide[scope, name]) for scope, name in names if (scope, name) in wide)[0]


def say(session: Session, scope: Scope, name: str, untrusted_rules: object) -> list[Grant]:
    """Set what one scope says, whole; an empty document is silence. `name` is a pool, a user, or a grant's number: a group speaks
    through each of its grants. Returns the workspaces that it reaches.

    Raises:
        BadInputError: a rule is unknown, or some grant's policy would contradict itself; nothing was changed.
    """
    said = rules(untrusted_rules)
    if scope in (Scope.GROUP, Scope.WORKSPACE):
        grant = session.get_one(Grant, int(name))
        grant.policy = canonical(said).decode()
        reached = [grant, *session.scalars(select(Grant).where(Grant.given_id == grant.id))]
    else:
        Policy.from_wire(said)
        reached = list(session.scalars(_reached(scope, name)))
    _note(session, scope, name, canonical(said).decode())
    wide = _wide(session)
    for grant in reached:
        try:
            _together(wide, grant)
        except BadInputError as off:
            whose = grant.group.name if grant.group else grant.user.name
            who = f"{grant.workspace} of {whose} (number {grant.id})"
            raise BadInputError(f"For {who}: {off.happened}", safe="Nothing was changed.") from off
    return [grant for grant in reached if grant.user_id is not None]


def changed(session: Session, grant: Grant) -> None:
    """Another grant speaks for a user's workspace, or the same one otherwise: its device hears that there is news."""
    _note(session, Scope.WORKSPACE, str(grant.id), grant.policy)


def _note(session: Session, scope: Scope, name: str, said: str) -> None:
    row = session.get(Rules, (scope.value, name))
    if row is None:
        row = Rules(scope=scope.value, name=name)
        session.add(row)
    row.said, row.changed = said, int(time.time())
    session.flush()


def _reached(scope: Scope, name: str) -> Any:
    if scope is Scope.POOL:
        return select(Grant).where(Grant.pool == name)
    if scope is Scope.USER:
        return select(Grant).join(User).where(User.name == name)
    return select(Grant)


def _wide(session: Session) -> dict[tuple[Scope, str], dict[str, Any]]:
    spoken = select(Rules).where(Rules.scope.in_((Scope.GLOBAL, Scope.POOL, Scope.USER)))  # the rest stands in grants
    return {(Scope(row.scope), row.name): json.loads(row.said) for row in session.scalars(spoken)}


def _together(wide: dict[tuple[Scope, str], dict[str, Any]], grant: Grant) -> tuple[Policy, tuple[Rule, ...]]:
    """A group's own grant is looked at as if nobody were in it."""
    names = [(Scope.GLOBAL, ""), (Scope.POOL, grant.pool)]
    if grant.person is not None:
        names.append((Scope.USER, grant.person.name))
    scopes = [(scope, name, wide[scope, name]) for scope, name in names if (scope, name) in wide]
    giving = grant if grant.group is not None else grant.given
    if giving is not None and giving.group is not None:
        scopes.append((Scope.GROUP, giving.group.name, json.loads(giving.policy)))
    if grant.person is not None:
        scopes.append((Scope.WORKSPACE, str(grant.id), json.loads(grant.policy)))
    return explained(scopes)
