"""The server's part in images: it keeps root and targets as the publisher signed them, and says itself, for a day at a time,
which are the newest. Documents lie in the table `roles`, every version of each; a key in `roles*.pem` signs the rest."""

from __future__ import annotations

import contextlib
import functools
import secrets
import time
from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from tuf.api.metadata import Snapshot, Timestamp

from twofold.model.errors import BadInputError, ConflictError, DamagedError, RefusedError
from twofold.model.release import STABLE, Release, offered
from twofold.server import audit
from twofold.server.home import Home
from twofold.server.tables import Image, Publisher, Role, Rollout, Start, Variant, Version
from twofold.trust import roles
from twofold.trust.keys import SigningKey, VerifyKey

_RENEW = timedelta(hours=12)
HALT_FAILED, HALT_PERCENT = 2, 10  # a roll-out stops when so many devices, and so many of all that began, failed


def new_key(home: Home) -> VerifyKey:
    """Make another key for snapshot and timestamp; it counts from the root on that names it."""
    made = SigningKey.make()
    made.save(home.folder / f"roles-{time.time_ns()}.pem")
    return made.verify_key


def public(home: Home) -> VerifyKey:
    """The newest key of this server, made when first asked for."""
    held = _keys(home)
    if held:
        return held[-1].verify_key
    made = home.folder / f".roles-{secrets.token_hex(4)}.pem"
    SigningKey.make().save(made)
    with contextlib.suppress(FileExistsError):  # another worker was faster
        (home.folder / "roles.pem").hardlink_to(made)
    made.unlink()
    return _keys(home)[-1].verify_key


def document(session: Session, name: str, version: int | None = None) -> bytes | None:
    """A role's document, the newest without `version`."""
    found = select(Role.body).where(Role.name == name).order_by(Role.version.desc()).limit(1)
    body = session.scalar(found if version is None else found.where(Role.version == version))
    return None if body is None else body.encode()


def last_roots(session: Session) -> list[bytes]:
    """The newest 32 roots: an invitation that is valid names one of them."""
    found = select(Role.body).where(Role.name == "root").order_by(Role.version.desc()).limit(32)
    return [body.encode() for body in session.scalars(found)]


def served(session: Session, untrusted_name: str) -> tuple[bytes | None, bool]:
    """A document by the name that python-tuf's client asks for (`timestamp.json`, `3.root.json`, …), and whether it has to be
    renewed first: a timestamp that has less than half a day left."""
    if untrusted_name == "timestamp.json":
        found = document(session, "timestamp")
        return found, found is not None and _old(found)
    number, _, role = untrusted_name.removesuffix(".json").rpartition(".")
    if role not in ("root", "snapshot", "targets") or not (number.isascii() and number.isdigit() and len(number) < 10):
        return None, False
    return document(session, role, int(number)), False


def started(session: Session, version: int, device: str, *, good: bool) -> None:
    """Remember how a version's (its row's number) last start on a device went, and stop its roll-out when too many failed."""
    row = session.get(Start, (version, device)) or Start(version_id=version, device_id=device)
    row.good, row.at = good, int(time.time())
    session.add(row)
    session.flush()
    said = dict(
        session.execute(select(Start.good, func.count()).where(Start.version_id == version).group_by(Start.good)).all()
    )
    failed, all_of_them = said.get(False, 0), sum(said.values())
    stopped = session.get(Rollout, version)
    if failed >= HALT_FAILED and failed * 100 >= HALT_PERCENT * all_of_them and stopped is None:
        # Once: whoever lets it go on has seen this, and is not overruled by the same devices.
        why = f"{failed} of {all_of_them} devices could not start it"
        session.add(Rollout(version_id=version, halted=int(time.time()), why=why))
        audit.record(session, "server", "halt", f"version row {version}: {why}")


def set_root(session: Session, home: Home, untrusted_root: bytes) -> int:
    """
    Raises:
        BadInputError, RefusedError: it does not follow the root that is here, or names another server's keys.
    """
    version = roles.check_root(untrusted_root, document(session, "root"))
    if roles.server_keys(untrusted_root) != {roles.tuf_key(public(home)).keyid}:
        raise RefusedError("The root does not name this server's key.", safe="The former root holds.")
    _keep(session, "root", version, untrusted_root)
    for signer in roles.target_keys(untrusted_root):
        if session.get(Publisher, signer.id) is None:
            session.add(Publisher(key=signer.id, public=signer.public.hex(), created=int(time.time())))
    if document(session, "targets") is not None:
        # The keys may be new ones: what they signed before is signed again.
        _say(session, home)
    return version


def set_targets(session: Session, home: Home, untrusted_targets: bytes) -> roles.Listing:
    """
    Raises:
        RefusedError: not signed by the root's keys. ConflictError: not newer than what is here. BadInputError: it lists a version
            that is not here.
    """
    root, former = document(session, "root"), _newest(session, "targets")
    if root is None:
        raise ConflictError("There is no root yet.", next="Publish with this version's twofold.")
    found = roles.listing(untrusted_targets, root)
    if found.version <= former:
        raise ConflictError(
            f"The list of images is at number {former}; number {found.version} cannot follow it.",
            safe="Nothing was changed.",
            next="Try again.",
        )
    here: dict[tuple[str, int], dict[str, str]] = {}
    rows = select(Image.name, Version.version, Variant.arch, Variant.sha256).join_from(Variant, Version).join(Image)
    for image, version, arch, digest in session.execute(rows):
        here.setdefault((image, version), {})[arch] = digest
    for release in found.releases:
        held = here.get((release.image, release.version), {})
        if _digests(release, held) != held or not held:
            what = f"version {release.version} of {release.image}"
            raise BadInputError(
                f"The list does not name {what} as it is here: for {', '.join(sorted(held))}."
                if held
                else f"{what[0].upper()}{what[1:]} is not here.",
                safe="Nothing was changed.",
                next="Use the newest twofold that this company publishes with.",
            )
    _keep(session, "targets", found.version, untrusted_targets)
    _say(session, home)
    return found


def renew(session: Session, home: Home) -> bytes | None:
    """The newest timestamp, signed anew where it is old."""
    current = document(session, "timestamp")
    if current is None or not _old(current):
        return current
    signer, snapshot, number = _signer(session, home), _newest(session, "snapshot"), _newest(session, "timestamp") + 1
    held = document(session, "snapshot")
    assert held is not None  # a timestamp is never without
    if roles.read(Snapshot, held).signed.is_expired(roles.now() + timedelta(days=30)):
        snapshot += 1
        _keep(session, "snapshot", snapshot, roles.make_snapshot(snapshot, _newest(session, "targets"), signer))
    renewed = roles.make_timestamp(number, snapshot, signer)
    _keep(session, "timestamp", number, renewed)
    return renewed


def releases(session: Session) -> tuple[Release, ...]:
    root, targets = document(session, "root"), document(session, "targets")
    return () if root is None or targets is None else _listing(targets, root).releases


def _digests(release: Release, held: Mapping[str, str]) -> dict[str, str]:
    """What a list says of a version's indexes, by architecture. An older publisher names one, and not what it is for."""
    own = release.arch or next(iter(held), "")
    return {own: release.sha256} | {arch: each.sha256 for arch, each in release.others.items()}


def version_for(session: Session, image: Image, device: str, arch: str = "", channel: str = STABLE) -> Version | None:
    """What a device is given when it begins or goes on to a new version; `arch` where it has said what it is."""
    halted = session.scalars(
        select(Version.version).join(Rollout).where(Version.image_id == image.id, Rollout.halted != 0)
    ).all()
    found = offered(releases(session), image.name, device, channel, halted, arch)
    if found is None:
        return None
    return session.scalar(select(Version).where(Version.image_id == image.id, Version.version == found.version))


# A device's every question needs it, and to verify it takes milliseconds.
_listing = functools.lru_cache(4)(roles.listing)


def _keys(home: Home) -> list[SigningKey]:
    """Oldest first."""
    paths = sorted(home.folder.glob("roles*.pem"), key=lambda path: int(path.stem.partition("-")[2] or 0))
    return [SigningKey.load(path) for path in paths]


def _signer(session: Session, home: Home) -> SigningKey:
    """The key that the newest root names."""
    root = document(session, "root")
    named = set() if root is None else roles.server_keys(root)
    for key in _keys(home):
        if roles.tuf_key(key.verify_key).keyid in named:
            return key
    raise DamagedError(
        "The server's key for lists of images is gone from its folder.",
        safe="Devices go on with what they have.",
        next="Restore roles*.pem from a copy, or on the publisher's machine:  twofold key rotate",
    )


def _say(session: Session, home: Home) -> None:
    signer = _signer(session, home)
    snapshot, targets = _newest(session, "snapshot") + 1, _newest(session, "targets")
    _keep(session, "snapshot", snapshot, roles.make_snapshot(snapshot, targets, signer))
    number = _newest(session, "timestamp") + 1
    _keep(session, "timestamp", number, roles.make_timestamp(number, snapshot, signer))


def _old(timestamp: bytes) -> bool:
    return roles.read(Timestamp, timestamp).signed.is_expired(roles.now() + _RENEW)


def _newest(session: Session, name: str) -> int:
    return session.scalar(select(func.max(Role.version)).where(Role.name == name)) or 0


def _keep(session: Session, name: str, version: int, body: bytes) -> None:
    session.add(Role(name=name, version=version, body=body.decode()))
    session.flush()
