"""`make specification`: writes the last benches' figures (out/bench/*.json) into SPECIFICATION.md, between its two marks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.report import OUT

PAPER = Path(__file__).resolve().parents[1] / "SPECIFICATION.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def table(name: str, document: dict[str, Any]) -> str:
    machine = document["machine"]
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mib']} MiB, load {machine['load']}"
    bench, *parts = name.split("-")
    only = f" ONLY={parts[0]}" if len(parts) == 1 else f" ONLY='{' '.join(parts)}'" if parts else ""
    lines = [
        f"### `make bench-{bench}{only}`",
        f"Revision {document['revision']}; {place}.",
        "",
        "| figure | ours (lowest to highest, rounds) | peer | ratio | goal | met |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        low, high = row["spread"]
        ours = f"{row['ours']:.3g} {row['unit']} ({low:.3g} to {high:.3g}, n={row['rounds']})"
        peers = ", ".join(f"{peer} {value:.3g}" for peer, value in row["peers"].items())
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]
        lines.append(f"| {row['figure']} | {ours} | {peers} | {ratio} | {row['goal']} | {met} |")
    return "\n".join([*lines, "", *document["notes"], ""])


def counts(path: Path) -> bool:
    """A part that was run alone counts until the whole is run again."""
    whole = path.with_name(f"{path.stem.partition('-')[0]}.json")
    return whole == path or not whole.exists() or path.stat().st_mtime > whole.stat().st_mtime


def main() -> int:
    paper = PAPER.read_text()
    before, _, rest = paper.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = [table(path.stem, json.loads(path.read_text())) for path in sorted(OUT.glob("*.json")) if counts(path)]
    PAPER.write_text("\n".join([before + BEGIN, *tables, END + after]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
