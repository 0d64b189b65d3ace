"""May this workspace run now? The lease's end and the time without contact, by a clock that never goes back."""

from __future__ import annotations

import time
from typing import Any

from twofold.agent.store import Record
from twofold.model.errors import RefusedError
from twofold.model.lease import Lease
from twofold.platform.clock import boot_id, boottime
from twofold.trust.assurance import lacking


def now(record: Record) -> int:
    """Unix seconds, never less than the highest time that is known, which goes on by the boot-time clock."""
    passed = int(boottime()) - record.seen_boot if record.seen_in == boot_id() else 0
    return max(int(time.time()), record.seen_at + max(0, passed))


def seen(at: int) -> dict[str, Any]:
    """Fields of the record: it is `at` now, at the least."""
    return {"seen_at": at, "seen_boot": int(boottime()), "seen_in": boot_id()}


def since(signed: int, sent: float) -> int:
    """What the time is at the most, by what the server signed at `signed` in answer to a request of `sent` (`boottime`): however
    late the answer comes and however far behind the clock here is, no lease becomes longer for it."""
    return signed + int(boottime() - sent) + 1


def runs_until(lease: Lease, record: Record) -> int:
    """When the right to run ends: the lease's end or the offline time after it was signed, whichever is first. The vault process
    counts the same (crates/vaultd/src/lease.rs)."""
    contact = lease.issued + lease.policy.offline_seconds
    return min(contact, lease.expires) if lease.expires else contact


def require(lease: Lease, record: Record) -> None:
    """Raises: RefusedError: the lease has ended, or the server was not reached for longer than the company allows."""
    at = now(record)
    if record.taken:
        raise taken(lease)
    if record.locked:
        raise locked(lease, record.locked_by)
    if not lease.policy.checkout:
        raise RefusedError(
            f"Your company does not let {lease.title} be used on a device of yours any more.",
            safe="Your work is on this disk, sealed; nothing was removed.",
            next=f"Give it back with all that is in it:  twofold checkin {lease.workspace}   or ask your administrator.",
        )
    if lease.expires and at >= lease.expires and not _by_contact(lease):
        raise RefusedError(
            f"Your right to use {lease.title} on this device ended on {_day(lease.expires)}.",
            safe="Your work is on this disk, sealed; nothing was removed.",
            next="Ask your administrator to extend it, then connect and try again.",
        )
    if at >= runs_until(lease, record):
        days = lease.policy.offline_seconds // 86400
        raise RefusedError(
            f"{lease.title} is locked: this device has had no contact with the company's server for {days} days or more.",
            safe="Your work is on this disk, sealed; nothing was removed.",
            next="Connect to the company's network; it unlocks by itself within a minute.",
        )
    if short := lacking(lease.policy):
        raise RefusedError(
            f"{lease.title} may not run on this machine. Your company wants {', and '.join(short)}.",
            safe="Your work is on this disk, sealed; nothing was removed.",
            next="See what this machine can promise:  twofold assurance   Then ask your administrator.",
        )


def shut(lease: Lease, record: Record) -> str:
    """In a word why it may not run: `taken`, `locked`, `ended` (the right to run it), `away` (too long without contact) or
    `assurance` (this machine promises less than the company wants); empty where it may."""
    at = now(record)
    if record.taken or record.locked:
        return "taken" if record.taken else "locked"
    if not lease.policy.checkout:
        return "ended"
    if lease.expires and at >= lease.expires and not _by_contact(lease):
        return "ended"
    if at >= runs_until(lease, record):
        return "away"
    return "assurance" if lacking(lease.policy) else ""


CODES = "too many wrong unlock codes"  # what may have locked a workspace in an administrator's place


def locked(lease: Lease, by: str = "") -> RefusedError:
    """`by` is the administrator who asked for it, as the server says, or `CODES`."""
    if by == CODES:
        return RefusedError(
            f"{lease.title} is locked: there were {CODES}.",
            safe="Your work is on this disk, sealed; nothing was removed.",
            next="Ask your administrator; once it is unlocked there, you can try again.",
        )
    who = "".join(char for char in by.removeprefix("user ")[:60] if char.isprintable())
    return RefusedError(
        f"Your company has locked {lease.title}" + (f" (asked by {who})." if who else "."),
        safe="Your work is on this disk, sealed; nothing was removed.",
        next="Ask your administrator; once it is unlocked there, it starts again.",
    )


WARNINGS = (86400, 3600)  # seconds before the end at which the person is told


def stage(lease: Lease, record: Record) -> int:
    """The warning that holds now (one of `WARNINGS`), 0 for none. Short terms have those that are less than half of them."""
    left = runs_until(lease, record) - now(record)
    return min((each for each in WARNINGS if left <= each <= lease.policy.offline_seconds // 2), default=0)


def warning(lease: Lease, record: Record) -> dict[str, str] | None:
    """What is said while the right to run is about to end; None where nothing is."""
    if not stage(lease, record) or refusal(lease, record) is not None:
        return None
    until = runs_until(lease, record)
    ends = bool(lease.expires) and not _by_contact(lease) and lease.expires == until
    when = time.strftime("%A %H:%M", time.localtime(until))
    return RefusedError(
        f"{lease.title} ends on {when}."
        if ends
        else f"{lease.title} locks on {when}, unless it reaches your company's server.",
        safe="Your work stays on this disk, sealed.",
        next="Ask your administrator to extend it."
        if ends
        else "Connect to the company's network; that is all it takes.",
    ).to_wire()


def erase_due(lease: Lease, record: Record) -> bool:
    """Whether the server was not reached for so long that the company wants the keys destroyed."""
    last = max(record.contacted_at, lease.issued)
    return 0 < lease.policy.erase_seconds <= now(record) - last


def _by_contact(lease: Lease) -> bool:
    """Leases of the second schema also end with the offline time that they were signed for: contact makes a new one."""
    return lease.epoch > 0 and lease.expires >= lease.issued + lease.policy.offline_seconds


def taken(lease: Lease) -> RefusedError:
    return RefusedError(
        f"Your company has taken back {lease.title} from this device.",
        safe="What was not backed up is still on this disk, sealed; nothing was removed.",
        next=f"Send it, to be kept beside the rest:  twofold backup {lease.workspace}   or:  twofold remove {lease.workspace}",
    )


def refusal(lease: Lease, record: Record) -> dict[str, str] | None:
    """Why it may not run, as it is shown beside the workspace; None where it may."""
    try:
        require(lease, record)
    except RefusedError as ended:
        return ended.to_wire()
    return None


def _day(unix: int) -> str:
    return time.strftime("%d %B %Y", time.localtime(unix))
