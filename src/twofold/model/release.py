"""Which version of an image a device runs: releases on channels, as the publisher's targets say them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twofold.model.errors import BadInputError, ConflictError
from twofold.model.names import slug

STABLE = "stable"
EVERYBODY = 100
MAX_INDEX = 256 << 20
MAX_OTHERS = 8


@dataclass(frozen=True)
class Variant:
    """What one kind of processor gets of a version: `length` in bytes and `sha256` in hex of its sealed index."""

    length: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """One version of one image. `length` in bytes and `sha256` in hex are those of the sealed index that its path names, which is
    for the architecture `arch` ("" where nobody wrote that down: versions had only one then); `others` are those of further
    architectures, by Debian's names. `channels` gives, for each channel that the version is on, the share of devices (1 to 100
    percent) that shall run it."""

    image: str
    version: int
    length: int
    sha256: str
    channels: Mapping[str, int]
    arch: str = ""
    others: Mapping[str, Variant] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The name of the target."""
        return f"{self.image}/{self.version}"

    @property
    def archs(self) -> tuple[str, ...]:
        """What is known of whom it is for."""
        return tuple(sorted({*self.others, *filter(None, [self.arch])}))

    def variant(self, arch: str) -> Variant | None:
        """The index for an architecture; None where the version has none. Where nobody wrote down which one a version is for, it
        is the only one, and says itself."""
        return Variant(self.length, self.sha256) if self.arch in (arch, "") else self.others.get(arch)

    def to_wire(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "version": self.version,
            "length": self.length,
            "sha256": self.sha256,
            "channels": dict(self.channels),
            "arch": self.arch,
            "others": {name: {"length": each.length, "sha256": each.sha256} for name, each in self.others.items()},
        }

    @classmethod
    def from_wire(cls, untrusted_release: object) -> Release:
        """
        Raises:
            BadInputError: a field is missing, unknown or malformed.
        """
        names = {"image", "version", "length", "sha256", "channels", "arch", "others"}
        if not isinstance(untrusted_release, dict) or untrusted_release.keys() != names:
            raise BadInputError("A release of an image is malformed.")
        version, channels = untrusted_release["version"], untrusted_release["channels"]
        own = _variant({name: untrusted_release[name] for name in ("length", "sha256")})
        arch, others = untrusted_release["arch"], untrusted_release["others"]
        if (
            type(version) is not int
            or not 0 < version < 1 << 31
            or not isinstance(channels, dict)
            or len(channels) > 16
        ):
            raise BadInputError("A release of an image is malformed.")
        # Architectures that this version does not know are another device's to know.
        if type(arch) is not str or not isinstance(others, dict) or len(others) > MAX_OTHERS or arch in others:
            raise BadInputError("A release's architectures are malformed.")
        if others and not arch:
            raise BadInputError("A release does not say which architecture its index is for.")
        for each in filter(None, [arch, *others]):
            slug(str(each), "an architecture")
        for name, share in channels.items():
            slug(str(name), "a channel")
            if type(share) is not int or not 1 <= share <= EVERYBODY:
                raise BadInputError(f"The share of channel {name} is not 1 to 100 percent.")
        found = {str(name): _variant(row) for name, row in others.items()}
        image = slug(str(untrusted_release["image"]), "an image")
        return cls(image, version, own.length, own.sha256, dict(channels), arch, found)


def _variant(untrusted_row: object) -> Variant:
    if not isinstance(untrusted_row, dict) or untrusted_row.keys() != {"length", "sha256"}:
        raise BadInputError("A release of an image is malformed.")
    length, digest = untrusted_row["length"], untrusted_row["sha256"]
    hexes = type(digest) is str and len(digest) == 64 and not digest.strip("0123456789abcdef")
    if type(length) is not int or not 0 < length <= MAX_INDEX or not hexes:
        raise BadInputError("A release of an image is malformed.")
    return Variant(length, digest)


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


def none_for(image: str, version: int, arch: str, archs: Iterable[str], newer: int = 0) -> ConflictError:
    """As it is said to a person whose machine is of an architecture that a version was not built for; `newer` is a version that
    was, where their data stands on an older one."""
    there = " and ".join(sorted(archs)) or "other"
    more = f"have the image published for {arch} as well"
    if newer:
        more = f"have the workspace go to version {newer} while it is on such a machine"
    return ConflictError(
        f"Version {version} of {image} is for {there} machines; this one is {arch}.",
        safe="Nothing was started or changed; your data stays where it is.",
        next=f"Use a machine that is {there}; or your administrator can {more}.",
    )


def bucket(image: str, version: int, device: str) -> int:
    """0 to 99: a device is in a roll-out whose share is above this. Another draw for each version, so that it is not always the
    same people who go first."""
    drawn = hashlib.sha256(f"{image} {version} {device}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") % EVERYBODY


def allowed(releases: Iterable[Release], image: str, channel: str = STABLE) -> tuple[Release, ...]:
    """What a device on this channel may be given: the version for everybody and the one that is being rolled out there; and what
    stable has, which stands in on any other channel."""
    follows = {channel, STABLE}
    return tuple(release for release in releases if release.image == image and not follows.isdisjoint(release.channels))


def offered(
    releases: Iterable[Release],
    image: str,
    device: str,
    channel: str = STABLE,
    halted: Iterable[int] = (),
    arch: str = "",
) -> Release | None:
    """What a device is given. `halted` are versions whose roll-out stands still: nobody begins with them. Where the device has
    said its architecture, it takes no part in the roll-out of a version that has nothing for it. Where another channel than
    stable has nothing for this device, or only what is halted, it is given what stable has."""
    listed, stopped, found = tuple(releases), set(halted), None
    for release in listed:
        if release.image != image or channel not in release.channels:
            continue
        share = release.channels[channel]
        fits = release.version not in stopped and (not arch or release.variant(arch) is not None)
        if share == EVERYBODY:
            found = release if fits or channel == STABLE else found
        elif fits and bucket(image, release.version, device) < share:
            return release
    return found if found is not None or channel == STABLE else offered(listed, image, device, STABLE, stopped, arch)
