"""The company's images as its publisher signs them: the root and the targets, kept here and on the server."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from twofold.model.errors import ConflictError, NotFoundError, RefusedError
from twofold.model.release import EVERYBODY, STABLE, Release
from twofold.trust import roles
from twofold.trust.keys import VerifyKey
from twofold.trust.publisher import Anchor, Publisher


class Office(Protocol):
    """What the publisher needs of a server to agree with it on roles (`twofold.server.client.Admin`)."""

    def roles(self) -> Mapping[str, Any]:
        """`{"server": hex, "root": base64 or null, "targets": base64 or null}`; nothing of it is trusted."""

    def new_roles_key(self) -> str: ...
    def set_root(self, document: bytes) -> None: ...
    def set_targets(self, document: bytes) -> None: ...


class Catalogue:
    """Opened anew for each change. What the publisher kept counts: a server cannot make it sign on top of something older."""

    def __init__(self, publisher: Publisher, office: Office) -> None:
        """Agree with the server, which gets its first root here.

        Raises:
            RefusedError: the server has another company's root, or shows something older or forged.
        """
        self._publisher, self._office = publisher, office
        told = office.roles()
        self._server = VerifyKey.from_hex(told["server"])
        self.root = self._agree_root(_bytes(told["root"]))
        self.listing = self._agree_targets(_bytes(told["targets"]))

    @property
    def anchor(self) -> Anchor:
        return self._publisher.anchor()

    @property
    def releases(self) -> tuple[Release, ...]:
        return self.listing.releases

    def release(self, image: str, version: int) -> Release:
        """
        Raises:
            NotFoundError: it is not published, or retired.
        """
        for release in self.releases:
            if (release.image, release.version) == (image, version):
                return release
        raise NotFoundError(
            f"There is no version {version} of {image}.", next=f"See what there is:  twofold image versions {image}"
        )

    def signed(self, releases: Iterable[Release]) -> bytes:
        """The next targets, not sent yet. Raises: BadInputError: two releases want the same devices."""
        return roles.make_targets(self.listing.version + 1, releases, [self._publisher.signing])

    def send(self, releases: Iterable[Release]) -> None:
        document = self.signed(releases)
        self._office.set_targets(document)
        self.sent(document)

    def sent(self, document: bytes) -> None:
        """Keep what the server took."""
        self._publisher.keep("targets", document)
        self.listing = roles.listing(document, self.root)

    def with_new(self, release: Release, share: int = EVERYBODY, channel: str = STABLE) -> tuple[Release, ...]:
        """The releases with this one, on a channel unless `share` is 0."""
        everything = (*self.releases, release)
        return promoted(everything, release, channel, share) if share else everything

    def promote(self, image: str, version: int, channel: str = STABLE, share: int = EVERYBODY) -> None:
        """Let `share` percent of a channel's devices run this version from now on; going back to an older one is this too."""
        self.send(promoted(self.releases, self.release(image, version), channel, share))

    def close(self, image: str, channel: str) -> None:
        """Nothing of an image is on this channel any more; whoever follows it is given what stable has.

        Raises:
            ConflictError: it is stable. NotFoundError: nothing of the image is on it.
        """
        if channel == STABLE:
            raise ConflictError(
                "Stable is what every other channel falls back on.",
                safe="Nothing was changed.",
                next="Promote another version there, or remove the grants.",
            )
        if not any(each.image == image and channel in each.channels for each in self.releases):
            raise NotFoundError(f"No version of {image} is on channel {channel}.")
        self.send(_without(each, channel) if each.image == image else each for each in self.releases)

    def retire(self, image: str, version: int) -> None:
        """No device may fetch it any more.

        Raises:
            ConflictError: it is on a channel.
        """
        release = self.release(image, version)
        if release.channels:
            raise ConflictError(
                f"Version {version} of {image} is on channel {', '.join(sorted(release.channels))}.",
                safe="Nothing was changed.",
                next="Promote another version there first.",
            )
        self.send(each for each in self.releases if each != release)

    def rotate(self) -> int:
        """Give the server new keys for snapshot and timestamp, after somebody may have copied the old ones, and sign a root that
        names them; devices follow it. Returns the root's number.

        Raises:
            MissingError: the root key is kept somewhere else.
        """
        signer = self._publisher.root_key()
        self._server = VerifyKey.from_hex(self._office.new_roles_key())
        own = roles.Keys([signer.verify_key]), roles.Keys([self._publisher.signing.verify_key])
        self.root = roles.next_root(self.root, *own, roles.Keys([self._server]), [signer])
        self._office.set_root(self.root)
        self._publisher.keep("root", self.root)
        return roles.number(self.root)

    def _agree_root(self, untrusted_root: bytes | None) -> bytes:
        kept = self._publisher.kept("root")
        if kept is None and untrusted_root is not None:
            raise RefusedError(
                "The server has a root that this publisher did not make.",
                safe="Nothing was changed.",
                next="Publish from the machine that has the company's keys, or copy its publisher folder here.",
            )
        if kept is None:
            key = self._publisher.root_key()
            single = roles.Keys([self._publisher.signing.verify_key])
            kept = roles.make_root(roles.Keys([key.verify_key]), single, roles.Keys([self._server]), [key])
            self._publisher.keep("root", kept)
        if untrusted_root is None:
            self._office.set_root(kept)
        elif untrusted_root != kept:
            roles.check_root(untrusted_root, kept)  # another machine of this publisher changed the keys
            self._publisher.keep("root", untrusted_root)
            kept = untrusted_root
        return kept

    def _agree_targets(self, untrusted_targets: bytes | None) -> roles.Listing:
        kept = self._publisher.kept("targets")
        mine = roles.Listing(0, 0, ()) if kept is None else roles.listing(kept, self.root)
        theirs = roles.Listing(0, 0, ()) if untrusted_targets is None else roles.listing(untrusted_targets, self.root)
        if theirs.version < mine.version:
            raise RefusedError(
                f"The server shows the list of images number {theirs.version}; this publisher signed number {mine.version}.",
                safe="Nothing was changed.",
                next="If the server was restored from a backup, restore one that was made after the last publishing.",
            )
        if theirs.version > mine.version and untrusted_targets is not None:
            self._publisher.keep("targets", untrusted_targets)
        return theirs


def promoted(releases: Iterable[Release], chosen: Release, channel: str, share: int) -> tuple[Release, ...]:
    """The releases with `chosen` on `channel` for `share` percent. For everybody, it is alone there; for fewer, it takes the
    place of what else was being rolled out, and who is not drawn stays with the version for everybody."""

    def moved(release: Release) -> Release:
        channels = dict(release.channels)
        if release.image != chosen.image:
            return release
        if release.path == chosen.path:
            channels[channel] = share
        elif share == EVERYBODY or channels.get(channel, EVERYBODY) != EVERYBODY:
            channels.pop(channel, None)
        return dataclasses.replace(release, channels=channels)

    return tuple(moved(release) for release in releases)


def _without(release: Release, channel: str) -> Release:
    kept = {name: share for name, share in release.channels.items() if name != channel}
    return dataclasses.replace(release, channels=kept)


def _bytes(untrusted_text: object) -> bytes | None:
    return None if untrusted_text is None else base64.b64decode(str(untrusted_text), validate=True)
