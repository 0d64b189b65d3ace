"""Tickets: one opening of one workspace's screen by one signed-in user, once, soon."""

from __future__ import annotations

import secrets
import time

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from twofold.model.errors import ConflictError
from twofold.server.accounts import digest
from twofold.server.tables import Lease, Ticket

SECONDS = 30
_MOST = 16  # of one user, at once


def issue(session: Session, user_id: int, lease: Lease) -> str:
    """
    Raises:
        ConflictError: too many of this user's wait to be used.
    """
    now = int(time.time())
    session.execute(delete(Ticket).where(Ticket.expires <= now))
    if (session.scalar(select(func.count(Ticket.digest)).where(Ticket.user_id == user_id)) or 0) >= _MOST:
        raise ConflictError(
            "Too many screens are being opened.", safe="Nothing was changed.", next="Wait half a minute."
        )
    made = secrets.token_urlsafe(32)
    session.add(Ticket(digest=digest(made), user_id=user_id, grant_id=lease.grant_id, expires=now + SECONDS))
    return made


def use(session: Session, user_id: int, untrusted_ticket: str) -> int | None:
    """The grant that this user's ticket opens; None for one that is nobody's, another's, used, or too old. Whoever shows it,
    it is gone."""
    found = session.execute(
        delete(Ticket)
        .where(Ticket.digest == digest(untrusted_ticket))
        .returning(Ticket.user_id, Ticket.grant_id, Ticket.expires)
    ).one_or_none()
    if found is None or found.user_id != user_id or found.expires <= time.time():
        return None
    return int(found.grant_id)
