"""How much one workspace may keep here: a share of its image's disks, all its points of the past together."""

from __future__ import annotations

import json
from contextlib import suppress

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from twofold.model.errors import NoRoomError
from twofold.server import policies
from twofold.server.context import Server
from twofold.server.tables import Grant, Sealed, Version

LEAST = 1 << 30  # bytes that every workspace may keep, however small its disks are


def limit(session: Session, server: Server, grant: Grant) -> int:
    """Bytes; 0: no limit."""
    newest = select(Version).where(Version.image_id == grant.image_id).order_by(Version.version.desc()).limit(1)
    version = session.scalar(newest)
    # Those of other architectures have the same disk for the user.
    variant = version.variant("") if version is not None else None
    manifest = json.loads(variant.manifest if variant is not None else "{}")
    disks = sum(part["size"] for part in manifest.get("parts", ()) if part["name"] == "system")
    # What the company lets it grow to, whatever it has grown to: that only its holder could say.
    disks += max(manifest.get("user_disk_size", 0), policies.of(session, grant)[0].disk_gib << 30)
    return max(LEAST, disks * server.home.quota_percent // 100) if server.home.quota_percent else 0


def used(session: Session, server: Server, grant: Grant) -> int:
    """Bytes of its files here, those on their way too."""
    whole = session.scalar(select(func.sum(Sealed.size)).where(Sealed.grant_id == grant.id)) or 0
    for path in server.home.uploads.glob(f"{grant.id}-*"):
        with suppress(FileNotFoundError):  # it has just become whole
            whole += path.stat().st_size
    return int(whole)


def require(session: Session, server: Server, grant: Grant, more: int) -> None:
    """
    Raises:
        NoRoomError: with so many bytes more it would keep more than it may.
    """
    most = limit(session, server, grant)
    if not most or not more or used(session, server, grant) + more <= most:
        return
    raise NoRoomError(
        f"'{grant.title}' may keep {most >> 20} MiB on your company's server, and this back up would pass that.",
        safe="All that was backed up before is there, and everything new stays on this device.",
        next="Ask your administrator to keep fewer points of the past (keep_points, keep_days) or to raise the server's quota.",
    )
