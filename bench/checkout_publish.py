"""Publishing the whole business image, against casync, restic and borg on the same four files, each into an empty store; and
publishing it once more after a package was rebuilt, each into the store that has the first.

Nothing is deleted before the last round: ext4 keeps off the numbers of files that were deleted in the last minutes and looks at
each of them for every new file (fs/ext4/ialloc.c), so that who writes many small files would pay for the round before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.checkout_kit import MIB, Took, again, company, fastest_first, newest, size_of, tell, timed, turned
from bench.images import upgrade
from bench.report import Row, row
from twofold.image.build import load
from twofold.image.chunks import BLOCK
from twofold.platform.run import run

NOTES = [
    (
        "publish: `twofold image publish` to a server on this machine over TLS, the server's processor time included, and each "
        "peer's command, until all lies on the disk; empty stores, the image in the page cache."
    ),
    (
        "publish: `restic --compression off`, `borg --encryption none --compression none` and `casync --compression=zstd "
        "--digest=sha256` (it has no mode without compression) are their fastest that still cut by content; the goal's rows are "
        "against these three. borg and casync seal nothing so; none is checked on another side."
    ),
    (
        "publish, beside them: `restic --compression auto`, and `borg --encryption repokey-blake2 --compression lz4`. Those of "
        "all five that store at most a tenth more than we do have rows of their own: to compress is most of the work."
    ),
    "rebuilt: libc6 changed inside the system disk (bench.images), then published, or backed up, once more at the same paths.",
]


@dataclass(frozen=True)
class Peer:
    """`make` an empty store in a folder, `save` the image's folder there under a name."""

    make: Callable[[Path], object]
    save: Callable[[Path, Path, str], object]
    fast: bool = True


def _restic(mode: str) -> Peer:
    def call(store: Path, *words: str | Path) -> object:
        env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(store / "cache"), "GOMAXPROCS": "2"}
        return run(["restic", "--quiet", "--repo", store / "repository", *words], env=env, timeout=600)

    return Peer(
        lambda store: call(store, "init", "--repository-version", "2"),
        lambda store, image, _: call(store, "backup", "--compression", mode, image),
        fast=mode == "off",
    )


def _borg(*, fast: bool) -> Peer:
    encryption, compression = ("none", "none") if fast else ("repokey-blake2", "lz4")

    def call(store: Path, *words: str | Path) -> object:
        return run(["borg", *words], env={"BORG_BASE_DIR": str(store), "BORG_PASSPHRASE": "bench"}, timeout=600)

    return Peer(
        lambda store: call(store, "init", "--encryption", encryption, store / "repository"),
        lambda store, image, name: call(
            store, "create", "--compression", compression, f"{store / 'repository'}::{name}", image
        ),
        fast=fast,
    )


def _casync(store: Path, image: Path, name: str) -> object:
    words = ["casync", "make", "--digest=sha256", "--compression=zstd", f"--store={store / 'repository'}"]
    return run([*words, store / f"{name}.caidx", image], timeout=600)


PEERS: Mapping[str, Peer] = {
    "casync": Peer(lambda store: (store / "repository").mkdir(), _casync),
    "restic": _restic("off"),
    "borg": _borg(fast=True),
    "restic, compressed": _restic("auto"),
    "borg, lz4 and sealed": _borg(fast=False),
}


@dataclass(frozen=True)
class Sample:
    """What one took: the first time, its store's bytes then, and the rebuilt image on top; bytes that this added."""

    first: Took
    stored: int
    again: Took
    added: int


def publish(folder: Path, rounds: int) -> list[Row]:
    image, systems = _image(folder)
    samples: dict[str, list[Sample]] = defaultdict(list)
    for number in range(rounds):
        for nth, name in enumerate(turned(["ours", *PEERS], number)):
            store = again(folder / f"store-{number}-{nth}")
            samples[name].append(_ours(store, image, systems) if name == "ours" else _peer(name, store, image, systems))
        said = (
            f"{name} {all_[-1].first.wall:.2f}/{all_[-1].first.processor:.2f}, rebuilt {all_[-1].again.wall:.2f}/"
            f"{all_[-1].again.processor:.2f}"
            for name, all_ in samples.items()
        )
        tell(f"publish, round {number + 1}, seconds on the clock/of processors: {'; '.join(said)}")
    return _rows(samples)


def _image(folder: Path) -> tuple[Path, tuple[Path, Path]]:
    """A build's folder with nothing in it but the image, and its two system disks: as built, and with libc6 rebuilt."""
    built, image, tree = newest(), again(folder / "image"), folder / "tree"
    for path in (*(built.path(part.name) for part in built.manifest.parts), built.folder / "manifest.json"):
        shutil.copyfile(path, image / path.name)
    run(["fsck.erofs", f"--extract={tree}", "--no-preserve", built.path("system")], timeout=600)
    former = {path: path.read_bytes() for path in tree.rglob("*.so*") if path.is_file() and not path.is_symlink()}
    upgrade(tree)
    begins = {body[:BLOCK]: path for path, body in former.items() if path.read_bytes() != body}
    disk = bytearray(built.path("system").read_bytes())
    for at in range(0, len(disk), BLOCK):
        changed = begins.get(bytes(disk[at : at + BLOCK]))
        if changed is not None:  # its last, unfilled block may lie with the metadata, and stays
            body = changed.read_bytes()[: len(former[changed]) // BLOCK * BLOCK]
            disk[at : at + len(body)] = body
    systems = folder / "built.erofs", folder / "rebuilt.erofs"
    shutil.copyfile(built.path("system"), systems[0])
    systems[1].write_bytes(disk)
    shutil.rmtree(tree)
    return image, systems


def _turn(image: Path, system: Path) -> None:
    """Have the image with this system disk; its other files stay the very files they were."""
    manifest = json.loads((image / "manifest.json").read_text())
    part = next(part for part in manifest["parts"] if part["name"] == "system")
    link = image / ".system"
    link.hardlink_to(system)
    link.replace(load(image).path("system"))
    with system.open("rb") as disk:
        part["sha256"] = hashlib.file_digest(disk, "sha256").hexdigest()
    (image / "manifest.json").write_text(json.dumps(manifest))


def _ours(store: Path, image: Path, systems: tuple[Path, Path]) -> Sample:
    with company(store / "company") as here:

        def held(version: int) -> int:
            return size_of(here.objects) + sum(len(here.admin.index("business", each + 1)) for each in range(version))

        _turn(image, systems[0])
        first = timed(lambda: here.cli("image", "publish", image), here.processor)
        stored = held(1)
        _turn(image, systems[1])
        rebuilt = timed(lambda: here.cli("image", "publish", image), here.processor)
        return Sample(first, stored, rebuilt, held(2) - stored)


def _peer(name: str, store: Path, image: Path, systems: tuple[Path, Path]) -> Sample:
    peer = PEERS[name]
    peer.make(store)
    _turn(image, systems[0])
    first = timed(lambda: peer.save(store, image, "one"))
    stored = size_of(store / "repository")
    _turn(image, systems[1])
    rebuilt = timed(lambda: peer.save(store, image, "two"))
    return Sample(first, stored, rebuilt, size_of(store / "repository") - stored)


def _rows(samples: Mapping[str, list[Sample]]) -> list[Row]:
    """By the peers' fastest modes, then by who stores as little as we do."""
    peers = {name: samples[name] for name in PEERS}
    least = min(peers, key=lambda name: peers[name][0].stored)
    little = [name for name, found in peers.items() if found[0].stored <= samples["ours"][0].stored * 1.1]
    fast = [name for name, peer in PEERS.items() if peer.fast]
    what, once_more = "full publish of the business image", "publish of the image rebuilt"

    def one(figure: str, unit: str, of: Callable[[Sample], float], judged: list[str], at_most: float | None) -> Row:
        taken = {name: [of(sample) for sample in found] for name, found in samples.items()}
        first = fastest_first({name: taken[name] for name in judged})
        rest = {name: taken[name] for name in peers if name not in judged}
        return row(figure, unit, taken["ours"], first | rest, at_most=at_most)

    return [
        one(f"{what}, against the fastest", "s", lambda it: it.first.wall, fast, 1 / 3),
        one(f"{what}: processor time, against the least", "s", lambda it: it.first.processor, fast, 1),
        one(f"{what}: stored, against the least in these modes", "MiB", lambda it: it.stored / MIB, fast, 1),
        one(f"{what}: stored, against the least of all ({least})", "MiB", lambda it: it.stored / MIB, [least], None),
        one(f"{what}, against who stores as little", "s", lambda it: it.first.wall, little, 1 / 3),
        one(f"{what}: processor time, against who stores as little", "s", lambda it: it.first.processor, little, 1),
        one(f"{once_more}, against the fastest", "s", lambda it: it.again.wall, [*PEERS], None),
        one(f"{once_more}: processor time, against the least", "s", lambda it: it.again.processor, [*PEERS], None),
        one(f"{once_more}: bytes added, against the fewest", "MiB", lambda it: it.added / MIB, [*PEERS], None),
    ]
