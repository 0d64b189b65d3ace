"""Which version of its image a workspace goes to while somebody has it, and what its device says that it stands on."""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from twofold.model.errors import ConflictError
from twofold.server import audit, commands, roles
from twofold.server.gate import Caller
from twofold.server.tables import Command, Lease, Version


def upgrade(session: Session, actor: str, lease: Lease, wanted: int = 0) -> Command | None:
    """Have a workspace go to a version: the one that its channel has for its device, or `wanted`, which must be on some channel.
    Whoever has the workspace is asked now (the request is returned), else whoever takes it next.

    Raises:
        ConflictError: it stands on that already, or nobody may run it.
    """
    grant, version = lease.grant, _chosen(session, lease, wanted)
    if lease.version_id == version.id and lease.next_id is None:
        raise ConflictError(
            f"'{grant.title}' of {grant.user.name} is on version {version.version} already.",
            safe="Nothing was changed.",
        )
    lease.next_id = version.id if lease.version_id != version.id else None
    if lease.device_id is None:
        audit.record(session, actor, "upgrade", f"{grant.workspace} of {grant.user.name} to {version.version}, later")
        return None
    return commands.ask(session, actor, lease, "upgrade", version=version.version)


def _chosen(session: Session, lease: Lease, wanted: int) -> Version:
    image = lease.grant.image
    if wanted:
        known = (Version.image_id == image.id, Version.version == wanted)
        given = any(
            (each.image, each.version) == (image.name, wanted) for each in roles.releases(session) if each.channels
        )
        found = session.scalar(select(Version).where(*known)) if given else None
    else:
        found = roles.version_for(session, image, lease.device_id or "", channel=lease.grant.channel)
    if found is None:
        which = f"Version {wanted} of {image.name}" if wanted else f"No version of {image.name}"
        raise ConflictError(
            f"{which} is on {'no' if wanted else 'its'} channel.",
            safe="Nothing was changed.",
            next=f"Give it out first:  twofold image promote {image.name} {wanted or 'VERSION'}",
        )
    return found


def taken(session: Session, lease: Lease) -> None:
    """Somebody took the workspace: what was wanted of the former holder, or of nobody yet, is wanted of this one."""
    if lease.next is not None and lease.next_id != lease.version_id:
        commands.ask(session, "server", lease, "upgrade", version=lease.next.version)
    else:
        lease.next_id = None


def failed(session: Session, caller: Caller, version: int) -> None:
    """A version (its row's number) did not start on a device that was to go to it, and does so no more."""
    session.execute(
        update(Lease).where(Lease.device_id == caller.device, Lease.next_id == version).values(next_id=None)
    )


def stands(session: Session, lease: Lease, untrusted_version: int) -> None:
    """A device says which version its disks stand on: the one it was to go to, or the one it came from. Any other is not heard:
    by its word alone no device gets another image."""
    if lease.next is not None and lease.next.version == untrusted_version:
        lease.version_id, lease.former_id, lease.next_id = lease.next_id, lease.version_id, None
    elif lease.former is not None and lease.former.version == untrusted_version:
        lease.version_id, lease.former_id = lease.former_id, lease.version_id
    else:
        return
    session.flush()
    session.refresh(lease)
    audit.record(
        session, "server", "stands on", f"{lease.grant.workspace} of {lease.grant.user.name}: {untrusted_version}"
    )
