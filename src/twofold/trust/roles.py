"""Who may say which image a device runs, after The Update Framework (python-tuf).

    root        the publisher's, off line   which keys speak for each role, itself included
    targets     the publisher's             which index is which version of which image, and on which channel
    snapshot    the server's                which targets are the newest
    timestamp   the server's, a day long    which snapshot is the newest

Whoever steals the server has snapshot and timestamp: it can name no index that the publisher did not, and no older targets to a
device that saw newer ones. This module makes and checks the documents; what a device does with them is `trust.updater`.
It loads python-tuf, so the agent never imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from twofold.model.errors import BadInputError, RefusedError
from twofold.model.release import Release, check
from twofold.trust.keys import SigningKey, VerifyKey

ROLES = ("root", "targets", "snapshot", "timestamp")
ROOT_LIFE, TARGETS_LIFE, SNAPSHOT_LIFE, TIMESTAMP_LIFE = (
    timedelta(days=3650), timedelta(days=365), timedelta(days=365), timedelta(days=1),
)  # fmt: skip
MAX_METADATA = 5_000_000
_S = TypeVar("_S", Root, Targets, Snapshot, Timestamp)


@dataclass(frozen=True)
class Keys:
    """The keys of a role and how many of them must sign."""

    keys: Sequence[VerifyKey]
    threshold: int = 1


@dataclass(frozen=True)
class Listing:
    """What a targets document says. `expires` in Unix seconds."""

    version: int
    expires: int
    releases: tuple[Release, ...]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def tuf_key(key: VerifyKey) -> Key:
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(key.public))


def make_root(root: Keys, targets: Keys, server: Keys, signers: Iterable[SigningKey]) -> bytes:
    """The first root. `server` has the keys of snapshot and timestamp."""
    return _signed(_root(1, root, targets, server), signers)


def next_root(former: bytes, root: Keys, targets: Keys, server: Keys, signers: Iterable[SigningKey]) -> bytes:
    """The root after `former`. Enough keys of the former one and of the new one must be among `signers`."""
    return _signed(_root(read(Root, former).signed.version + 1, root, targets, server), signers)


def make_targets(version: int, releases: Iterable[Release], signers: Iterable[SigningKey]) -> bytes:
    """Targets number `version` that list these releases and nothing else.

    Raises:
        BadInputError: two releases want the same devices.
    """
    listed = {release.path: release for release in releases}
    check(listed.values())
    files = {
        path: TargetFile(each.length, {"sha256": each.sha256}, path, {"custom": _custom(each)})
        for path, each in listed.items()
    }
    return _signed(Targets(version, expires=now() + TARGETS_LIFE, targets=files), signers)


def make_snapshot(version: int, targets: int, key: SigningKey) -> bytes:
    meta = {"targets.json": MetaFile(targets)}
    return _signed(Snapshot(version, expires=now() + SNAPSHOT_LIFE, meta=meta), [key])


def make_timestamp(version: int, snapshot: int, key: SigningKey, life: timedelta = TIMESTAMP_LIFE) -> bytes:
    return _signed(Timestamp(version, expires=now() + life, snapshot_meta=MetaFile(snapshot)), [key])


def check_root(untrusted_root: bytes, former: bytes | None) -> int:
    """The version of a root that may follow `former` (or be the first): signed by enough keys of both.

    Raises:
        BadInputError: it is no root, or not the next one. RefusedError: too few signatures.
    """
    found = read(Root, untrusted_root)
    before = None if former is None else read(Root, former).signed
    if found.signed.version != (1 if before is None else before.version + 1):
        raise BadInputError("The root is not the next one.", safe="The former root holds.")
    for by in filter(None, (before, found.signed)):
        _verify(by, Root.type, found)
    return found.signed.version


def listing(untrusted_targets: bytes, root: bytes) -> Listing:
    """Targets that enough of `root`'s keys signed.

    Raises:
        BadInputError: they are malformed. RefusedError: too few signatures.
    """
    found = read(Targets, untrusted_targets)
    _verify(read(Root, root).signed, Targets.type, found)
    if found.signed.delegations is not None:
        raise BadInputError("The targets delegate, which this version does not.")
    return Listing(found.signed.version, int(found.signed.expires.timestamp()), releases(found.signed.targets.values()))


def number(root: bytes) -> int:
    """A root's version."""
    return read(Root, root).signed.version


def server_keys(root: bytes) -> set[str]:
    """The ids (python-tuf's) of the keys that speak for the timestamp."""
    return set(read(Root, root).signed.roles[Timestamp.type].keyids)


def target_keys(root: bytes) -> list[VerifyKey]:
    """The keys that speak for targets."""
    found = read(Root, root).signed
    return [VerifyKey.from_hex(found.keys[keyid].keyval.get("public")) for keyid in found.roles[Targets.type].keyids]


def signers(document: bytes, root: bytes) -> list[VerifyKey]:
    """Which keys of targets signed this document, as verified."""
    found, by = read(Targets, document), read(Root, root).signed
    verdict = by.get_verification_result(Targets.type, found.signed_bytes, found.signatures)
    return [VerifyKey.from_hex(key.keyval.get("public")) for key in verdict.signed.values()]


def releases(files: Iterable[TargetFile]) -> tuple[Release, ...]:
    """
    Raises:
        BadInputError: a target is not a release.
    """
    return tuple(sorted((_release(file) for file in files), key=lambda each: (each.image, each.version)))


def read(kind: type[_S], untrusted_document: bytes) -> Metadata[_S]:
    """Parse a document of this kind; nothing about its signatures is checked.

    Raises:
        BadInputError: it is anything else.
    """
    if len(untrusted_document) > MAX_METADATA:
        raise BadInputError("The document is too long.")
    try:
        found = Metadata[_S].from_bytes(untrusted_document)
    except (RepositoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as off:
        raise BadInputError(f"This is not {kind.__name__.lower()} metadata.") from off
    if found.signed.type != kind.type:
        raise BadInputError(f"This is not {kind.__name__.lower()} metadata.")
    return found


def _custom(release: Release) -> dict[str, Any]:
    """Further architectures stand beside the channels and not as targets of their own: version 0.1 refuses a whole list that has
    a path which it does not know, and knows nothing of what else stands here."""
    said = release.to_wire()
    return {"channels": said["channels"]} | {name: said[name] for name in ("arch", "others") if said[name]}


def _release(file: TargetFile) -> Release:
    image, _, version = file.path.partition("/")
    custom = file.custom
    try:
        return Release.from_wire(
            {
                "image": image,
                "version": int(version) if version.isascii() and version.isdigit() else 0,
                "length": file.length,
                "sha256": file.hashes["sha256"],
                "channels": custom["channels"],
                "arch": custom.get("arch", ""),
                "others": custom.get("others", {}),
            }
        )
    except (KeyError, TypeError) as off:
        raise BadInputError("A target is not a release of an image.") from off


def _root(version: int, root: Keys, targets: Keys, server: Keys) -> Root:
    made = Root(version, expires=now() + ROOT_LIFE, consistent_snapshot=True)
    for name, role in (("root", root), ("targets", targets), ("snapshot", server), ("timestamp", server)):
        for key in role.keys:
            made.add_key(tuf_key(key), name)
        made.roles[name].threshold = role.threshold
    return made


def _signed(what: _S, signers: Iterable[SigningKey]) -> bytes:
    document = Metadata(what)
    for signer in signers:
        document.sign(CryptoSigner(signer.private, cast(SSlibKey, tuf_key(signer.verify_key))), append=True)
    return document.to_bytes(JSONSerializer(compact=True))


def _verify(root: Root, role: str, document: Metadata[_S]) -> None:
    try:
        root.verify_delegate(role, document.signed_bytes, document.signatures)
    except RepositoryError as off:
        raise RefusedError(
            f"The {role} metadata is not signed by enough keys of the publisher.", safe="It was not used."
        ) from off
