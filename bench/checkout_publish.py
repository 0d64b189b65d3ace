"""Publishing the whole business image, against casync, restic and borg on the same four files, each into an empty store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.checkout_kit import MIB, Took, again, company, fastest_first, newest, size_of, tell, timed, turned
from bench.report import Row, row
from twofold.platform.run import run

NOTES = [
    (
        "publish: `twofold image publish` to a server on this machine over TLS, the server's processor time included, and each "
        "peer's command, until all lies on the disk; empty stores, the image in the page cache."
    ),
    (
        "publish: restic and borg without compression, borg without encryption too, are their fastest; casync with zstd and "
        "sha256. What restic and borg take and store with compression stands beside it."
    ),
]


@dataclass(frozen=True)
class Peer:
    """`make` an empty store in a folder, `save` the image's folder there."""

    make: Callable[[Path], object]
    save: Callable[[Path, Path], object]
    fast: bool = True


def _restic(mode: str) -> Peer:
    def call(store: Path, *words: str | Path) -> object:
        env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(store / "cache"), "GOMAXPROCS": "2"}
        return run(["restic", "--quiet", "--repo", store / "repository", *words], env=env, timeout=600)

    return Peer(
        lambda store: call(store, "init", "--repository-version", "2"),
        lambda store, image: call(store, "backup", "--compression", mode, image),
        fast=mode == "off",
    )


def _borg(*, fast: bool) -> Peer:
    encryption, compression = ("none", "none") if fast else ("repokey-blake2", "lz4")

    def call(store: Path, *words: str | Path) -> object:
        return run(["borg", *words], env={"BORG_BASE_DIR": str(store), "BORG_PASSPHRASE": "bench"}, timeout=600)

    return Peer(
        lambda store: call(store, "init", "--encryption", encryption, store / "repository"),
        lambda store, image: call(store, "create", "--compression", compression, f"{store / 'repository'}::one", image),
        fast=fast,
    )


def _casync(store: Path, image: Path) -> object:
    words = ["casync", "make", "--digest=sha256", "--compression=zstd", f"--store={store / 'repository'}"]
    return run([*words, store / "image.caidx", image], timeout=600)


PEERS: Mapping[str, Peer] = {
    "casync": Peer(lambda store: (store / "repository").mkdir(), _casync),
    "restic": _restic("off"),
    "borg": _borg(fast=True),
    "restic, compressed": _restic("auto"),
    "borg, lz4 and sealed": _borg(fast=False),
}


def publish(folder: Path, rounds: int) -> list[Row]:
    image = again(folder / "image")
    built = newest()
    for part in built.manifest.parts:
        (image / built.path(part.name).name).write_bytes(built.path(part.name).read_bytes())
    took: dict[str, list[Took]] = defaultdict(list)
    stored: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for name in turned(["ours", *PEERS], number):
            store = again(folder / "store")
            if name == "ours":
                with company(store / "company") as here:
                    took[name].append(timed(lambda: here.cli("image", "publish", built.folder), here.processor))
                    stored[name].append((size_of(here.objects) + len(here.admin.index("business", 1))) / MIB)
            else:
                PEERS[name].make(store)
                took[name].append(timed(lambda: PEERS[name].save(store, image)))  # noqa: B023
                stored[name].append(size_of(store / "repository") / MIB)
        said = (f"{name} {all_[-1].wall:.2f}/{all_[-1].processor:.2f}" for name, all_ in took.items())
        tell(f"publish, round {number + 1}, seconds on the clock/of processors: {', '.join(said)}")
    fast = {name: samples for name, samples in took.items() if name in PEERS and PEERS[name].fast}
    what = "full publish of the business image"
    wall = {name: [one.wall for one in samples] for name, samples in fast.items()}
    processor = {name: [one.processor for one in samples] for name, samples in fast.items()}
    rest = {name: samples for name, samples in took.items() if name in PEERS and name not in fast}
    return [
        row(f"{what}, against the fastest", "s", [one.wall for one in took["ours"]], fastest_first(wall)
            | {name: [one.wall for one in samples] for name, samples in rest.items()}, at_most=1 / 3),
        row(f"{what}: processor time, against the least", "s", [one.processor for one in took["ours"]],
            fastest_first(processor) | {name: [one.processor for one in samples] for name, samples in rest.items()},
            at_most=1),
        row(f"{what}: stored, against the least in these modes", "MiB", stored["ours"],
            fastest_first({name: stored[name] for name in fast}) | {name: stored[name] for name in rest}, at_most=1),
    ]  # fmt: skip
