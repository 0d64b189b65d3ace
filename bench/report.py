"""How every bench tells its figures: `out/bench/<name>.json`, a table, a plot (design: Figures)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from twofold.platform.run import run

OUT = Path(__file__).resolve().parents[1] / "out" / "bench"


@dataclass(frozen=True)
class Row:
    """One figure. `ours` and `peers` are medians, or the percentile that the figure names; `spread` is ours from lowest to
    highest, `ratio` ours over the first peer.
    highest, `ratio` ours over the first peer.

    `goal` limits this ratio (or, without a peer, the figure itself); `met` says whether it holds.
    """

    figure: str
    unit: str
    ours: float
    peers: dict[str, float]
    spread: tuple[float, float]
    ratio: float | None
    goal: str
    met: bool | None
    rounds: int


def row(
    figure: str,
    unit: str,
    ours: Sequence[float],
    peers: dict[str, Sequence[float]],
    at_most: float | None = None,
    at_least: float | None = None,
    percentile: float = 50,
) -> Row:
    """Boil samples down to a row, each side to its `percentile`.

    `at_most`, `at_least` limit the ratio to the first peer, or the figure if there is none.
    """
    middle = _at(ours, percentile)
    against = {name: _at(samples, percentile) for name, samples in peers.items()}
    ratio = middle / next(iter(against.values())) if against else None
    judged = middle if ratio is None else ratio
    goal, met = "", None
    if at_most is not None:
        goal, met = f"at most {at_most:g}{'x' if against else ' ' + unit}", judged <= at_most
    elif at_least is not None:
        goal, met = f"at least {at_least:g}{'x' if against else ' ' + unit}", judged >= at_least
    return Row(figure, unit, middle, against, (min(ours), max(ours)), ratio, goal, met, len(ours))


def _at(samples: Sequence[float], percentile: float) -> float:
    """The nearest rank, and the usual median: no figure that was not measured, or lies half-way between two that were."""
    if percentile == 50:
        return statistics.median(samples)
    return sorted(samples)[max(0, math.ceil(len(samples) * percentile / 100) - 1)]


def machine() -> dict[str, str | int]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    memory = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_mib": memory,
        "kernel": platform.release(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def revision() -> str:
    done = run(["git", "-c", "safe.directory=*", "describe", "--always", "--dirty"], cwd=OUT.parents[1], check=False)
    return done.stdout.decode().strip() or "unknown"


def report(name: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Path:
    """Write the JSON, print the table, draw the plot. Returns the JSON's path."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    document = {
        "revision": revision(),
        "machine": machine(),
        "rows": [dataclasses.asdict(one) for one in rows],
        "notes": list(notes),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    table = Table(title=f"bench {name}", title_justify="left")
    for column in ("figure", "ours", "spread", "peers", "ratio", "goal", "met"):
        table.add_column(column)
    for one in rows:
        table.add_row(
            one.figure, f"{one.ours:.3g} {one.unit}", f"{one.spread[0]:.3g} … {one.spread[1]:.3g} (n={one.rounds})",
            ", ".join(f"{peer} {value:.3g}" for peer, value in one.peers.items()),
            "" if one.ratio is None else f"{one.ratio:.2f}x",
            one.goal, {True: "yes", False: "NO", None: ""}[one.met],
        )  # fmt: skip
    console = Console(width=max(120, Console().width))
    console.print(table)
    for note in notes:
        console.print(note)
    _plot(name, rows)
    return path


def _plot(name: str, rows: Sequence[Row]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(rows), 1, figsize=(8, 1 + 0.9 * sum(1 + len(one.peers) for one in rows) / 2), squeeze=False
    )
    for axis, one in zip(axes[:, 0], rows, strict=True):
        names, values = ["Twofold", *one.peers], [one.ours, *one.peers.values()]
        axis.barh(names, values, color=["#0b6bb0", *["#9aa5b1"] * len(one.peers)])
        axis.errorbar(
            one.ours, 0, xerr=[[one.ours - one.spread[0]], [one.spread[1] - one.ours]], color="#333", capsize=3
        )
        axis.set_title(f"{one.figure} ({one.unit})", loc="left", fontsize=9)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(OUT / f"{name}.png", dpi=110)
    plt.close(figure)
