"""A company as documents by name, and a device that has pinned its root: what attacks are tried on."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

from twofold.model.errors import NotFoundError
from twofold.model.release import Release
from twofold.trust import roles, updater
from twofold.trust.keys import SigningKey
from twofold.trust.roles import Keys

READING = b"r" * 32
FAR = 2**31 - 1


def release(version: int, share: int = 100, image: str = "office", filling: bytes = b"x") -> Release:
    digest = hashlib.sha256(filling + bytes([version])).hexdigest()
    return Release(image, version, 1000, digest, {"stable": share} if share else {})


def keys(*held: SigningKey, threshold: int = 1) -> Keys:
    return Keys([key.verify_key for key in held], threshold)


class Company:
    """A publisher and its server, as documents by name."""

    def __init__(self) -> None:
        self.root, self.targets, self.server = (SigningKey.make() for _ in range(3))
        self.pinned = roles.make_root(keys(self.root), keys(self.targets), keys(self.server), [self.root])
        self.documents = {"1.root.json": self.pinned}
        self.numbers = {"root": 1, "targets": 0, "snapshot": 0, "timestamp": 0}

    def publish(self, *listed: Release) -> None:
        """The next targets, and what the server says of them."""
        number = self.count("targets")
        self.documents[f"{number}.targets.json"] = roles.make_targets(number, listed, [self.targets])
        self.say()

    def say(self, targets: int | None = None, life: timedelta = roles.TIMESTAMP_LIFE) -> None:
        snapshot, timestamp = self.count("snapshot"), self.count("timestamp")
        newest = self.numbers["targets"] if targets is None else targets
        self.documents[f"{snapshot}.snapshot.json"] = roles.make_snapshot(snapshot, newest, self.server)
        self.documents["timestamp.json"] = roles.make_timestamp(timestamp, snapshot, self.server, life)

    def count(self, role: str) -> int:
        self.numbers[role] += 1
        return self.numbers[role]

    def rotate(self, *signers: SigningKey, server: SigningKey | None = None) -> None:
        """The next root, by default with a new key for the server."""
        self.server = server or SigningKey.make()
        former = self.documents[f"{self.numbers['root']}.root.json"]
        number = self.count("root")
        self.documents[f"{number}.root.json"] = roles.next_root(
            former, keys(self.root), keys(self.targets), keys(self.server), signers or [self.root]
        )

    def metadata(self, name: str, limit: int) -> bytes:
        if name not in self.documents:
            raise NotFoundError(f"There is no {name}.")
        return self.documents[name]


class Machine:
    """A device that has pinned a company's root."""

    def __init__(self, folder: Path, company: Company) -> None:
        self.folder, self.company, self.root = folder, company, company.pinned
        folder.mkdir(mode=0o700, exist_ok=True)

    def look(self) -> tuple[Release, ...]:
        def get(name: str, limit: int) -> bytes | None:
            return self.company.documents.get(name)

        return updater.update(self.folder, self.root, get)
