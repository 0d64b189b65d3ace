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
    """Set what one scope says, whole; an empty document is silence. Returns the grants that it reaches.

    Raises:
        BadInputError: a rule is unknown, or some grant's policy would contradict itself; nothing was changed.
    """
    said = rules(untrusted_rules)
    if scope is Scope.WORKSPACE:
        grant = session.get_one(Grant, int(name))
        grant.policy = canonical(said).decode()
        reached = [grant]
    else:
        Policy.from_wire(said)
        reached = list(session.scalars(_reached(scope, name)))
    row = session.get(Rules, (scope.value, name))
    if row is None:
        row = Rules(scope=scope.value, name=name)
        session.add(row)
    row.said, row.changed = canonical(said).decode(), int(time.time())
    session.flush()
    wide = _wide(session)
    for grant in reached:
        try:
            _together(wide, grant)
        except BadInputError as off:
            who = f"{grant.workspace} of {grant.user.name} (number {grant.id})"
            raise BadInputError(f"For {who}: {off.happened}", safe="Nothing was changed.") from off
    return reached


def _reached(scope: Scope, name: str) -> Any:
    if scope is Scope.POOL:
        return select(Grant).where(Grant.pool == name)
    if scope is Scope.USER:
        return select(Grant).join(User).where(User.name == name)
    return select(Grant)


def _wide(session: Session) -> dict[tuple[Scope, str], dict[str, Any]]:
    return {(Scope(row.scope), row.name): json.loads(row.said) for row in session.scalars(select(Rules))}


def _together(wide: dict[tuple[Scope, str], dict[str, Any]], grant: Grant) -> tuple[Policy, tuple[Rule, ...]]:
    names = ((Scope.GLOBAL, ""), (Scope.POOL, grant.pool), (Scope.USER, grant.user.name))
    scopes = [(scope, name, wide[scope, name]) for scope, name in names if (scope, name) in wide]
    return explained([*scopes, (Scope.WORKSPACE, str(grant.id), json.loads(grant.policy))])
