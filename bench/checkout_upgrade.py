"""Version 2 with one package upgraded, to a device that has version 1: bytes over the wire, against casync, zsync and rsync.

The upgrade is bench.images': libc6 as if rebuilt. Ours is what a device's connections carry, both ways, from the check-out to the
last chunk: the lease, the roles' documents, the index, patches and chunks, HTTP and TLS. Bytes do not vary: there is one round.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.checkout_kit import MIB, company, newest, tell
from bench.checkout_link import Relay, counted
from bench.images import PEERS, erofs, served, upgrade
from bench.report import Row, row
from twofold.agent.enrolment import enrol
from twofold.agent.remote import Remote
from twofold.image import patches
from twofold.image.build import Built
from twofold.image.fetch import fetch
from twofold.model.image import ImageVersion, Part
from twofold.model.policy import Policy
from twofold.platform.run import run
from twofold.server.client import Admin
from twofold.trust.device import identity
from twofold.trust.publisher import publisher

NOTES: list[str] = []


@dataclass(frozen=True)
class Version:
    """A built image with another system disk."""

    built: Built
    system: Path

    @property
    def manifest(self) -> ImageVersion:
        with self.system.open("rb") as disk:
            part = Part("system", self.system.stat().st_size, hashlib.file_digest(disk, "sha256").hexdigest())
        rows = tuple(part if each.name == "system" else each for each in self.built.manifest.parts)
        return dataclasses.replace(self.built.manifest, parts=rows)

    def path(self, part: str) -> Path:
        return self.system if part == "system" else self.built.path(part)


def pair(folder: Path) -> tuple[Path, Path]:
    """The system disk and the one with the package upgraded, packed by the same command."""
    built = newest()
    trees = folder / "one", folder / "two"
    for tree in trees:
        run(["fsck.erofs", f"--extract={tree}", "--no-preserve", built.path("system")], timeout=600)
    files, changed = upgrade(trees[1])
    NOTES[:] = [f"version 2: libc6 upgraded, {files} files of {changed / MIB:.1f} MiB."]
    one, two = (erofs(tree, folder / f"{tree.name}.erofs") for tree in trees)
    return one, two


@contextmanager
def device(admin: Admin, folder: Path, port: int) -> Iterator[tuple[Remote, Relay]]:
    """A device whose every byte to and from the server goes through a relay."""
    who = identity(folder)
    with counted(port) as relay:
        url = admin.invite_device("ada").replace(f":{port}/", f":{relay.port}/")
        remote = Remote(enrol(url, "Laptop", who, bytes(32)), who, folder / "seen")
        try:
            yield remote, relay
        finally:
            remote.close()


def version_two(folder: Path) -> list[Row]:
    one, two = pair(folder)
    with served(folder) as url:
        peers: dict[str, Sequence[float]] = {name: [peer(one, two, url) / MIB] for name, peer in PEERS.items()}
    with company(folder / "company") as here:
        maker = publisher(here.folder / "publisher")
        here.admin.add_publisher(maker)
        here.admin.create_user("ada", "ada ada ada ada")
        here.admin.publish_image(Version(newest(), one), maker)
        here.admin.add_grant("ada", "business", "work", "ACME", "green", Policy())
        cache = folder / "cache"
        with device(here.admin, folder / "who", here.admin.place.port) as (remote, relay):
            remote.checkout("work")
            fetch(remote.index("business", 1).ids, remote, cache)
            remote.checkin("work")
            here.admin.publish_image(Version(newest(), two), maker)
            before = relay.bytes
            remote.checkout("work")
            index = remote.index("business", 2)
            told = relay.bytes - before
            patched = patches.bring(index, remote, cache)
            chunks = fetch(index.ids, remote, cache).sent
            sent = relay.bytes - before
    NOTES.append(
        f"version 2, MiB: lease, roles and index {told / MIB:.2f}, patches {patched / MIB:.3f}, chunks {chunks / MIB:.3f}, "
        f"requests and TLS the rest."
    )
    tell(NOTES[-1])
    ordered = dict(sorted(peers.items(), key=lambda each: each[1][0]))
    return [row("version 2 over the wire, both ways, against the fewest", "MiB", [sent / MIB], ordered, at_most=1)]
