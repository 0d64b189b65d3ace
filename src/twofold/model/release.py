"""Which version of an image a device runs: releases on channels, as the publisher's targets say them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError
from twofold.model.names import slug

STABLE = "stable"
EVERYBODY = 100
MAX_INDEX = 256 << 20


@dataclass(frozen=True)
class Release:
    """One version of one image. `length` in bytes and `sha256` in hex are those of its sealed index; `channels` gives, for each
    channel that it is on, the share of devices (1 to 100 percent) that shall run it."""

    image: str
    version: int
    length: int
    sha256: str
    channels: Mapping[str, int]

    @property
    def path(self) -> str:
        """The name of the target."""
        return f"{self.image}/{self.version}"

    def to_wire(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "version": self.version,
            "length": self.length,
            "sha256": self.sha256,
            "channels": dict(self.channels),
        }

    @classmethod
    def from_wire(cls, untrusted_release: object) -> Release:
        """
        Raises:
            BadInputError: a field is missing, unknown or malformed.
        """
        names = {"image", "version", "length", "sha256", "channels"}
        if not isinstance(untrusted_release, dict) or untrusted_release.keys() != names:
            raise BadInputError("A release of an image is malformed.")
        version, length = untrusted_release["version"], untrusted_release["length"]
        digest, channels = untrusted_release["sha256"], untrusted_release["channels"]
        counts = type(version) is int and type(length) is int and 0 < version < 1 << 31 and 0 < length <= MAX_INDEX
        hexes = type(digest) is str and len(digest) == 64 and not digest.strip("0123456789abcdef")
        if not counts or not hexes or not isinstance(channels, dict) or len(channels) > 16:
            raise BadInputError("A release of an image is malformed.")
        for name, share in channels.items():
            slug(str(name), "a channel")
            if type(share) is not int or not 1 <= share <= EVERYBODY:
                raise BadInputError(f"The share of channel {name} is not 1 to 100 percent.")
        return cls(slug(str(untrusted_release["image"]), "an image"), version, length, digest, dict(channels))


def check(releases: Iterable[Release]) -> None:
    """At most one release of an image is for everybody on a channel, and at most one is being rolled out there.

    Raises:
        BadInputError: it would not be clear what a device runs.
    """
    seen: set[tuple[str, str, bool]] = set()
    for release in releases:
        for channel, share in release.channels.items():
            place = (release.image, channel, share == EVERYBODY)
            if place in seen:
                raise BadInputError(f"Two versions of {release.image} want the same devices of channel {channel}.")
            seen.add(place)


def bucket(image: str, version: int, device: str) -> int:
    """0 to 99: a device is in a roll-out whose share is above this. Another draw for each version, so that it is not always the
    same people who go first."""
    drawn = hashlib.sha256(f"{image} {version} {device}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % EVERYBODY


def allowed(releases: Iterable[Release], image: str, channel: str = STABLE) -> tuple[Release, ...]:
    """What a device on this channel may be given: the version for everybody and the one that is being rolled out."""
    return tuple(release for release in releases if release.image == image and channel in release.channels)


def offered(
    releases: Iterable[Release], image: str, device: str, channel: str = STABLE, halted: Iterable[int] = ()
) -> Release | None:
    """What a device is given. `halted` are versions whose roll-out stands still: nobody begins with them."""
    stopped, found = set(halted), None
    for release in allowed(releases, image, channel):
        share = release.channels[channel]
        if share == EVERYBODY:
            found = found or release
        elif release.version not in stopped and bucket(image, release.version, device) < share:
            return release
    return found
