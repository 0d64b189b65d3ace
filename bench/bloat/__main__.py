"""Make this machine busy for a while, then say what was done:

python -m bench.bloat [--only KIND]... [--seconds N] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from bench.bloat import KINDS, Bloat


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.bloat", description="A busy host, bounded and seeded.")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="one kind of load; may be repeated")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where files are written; name one on the disk under test")
    parser.add_argument("--memory", type=int, default=384, metavar="MIB", help="bound of the memory hog")
    words = parser.parse_args()
    busy = Bloat(
        words.only or list(KINDS), words.seed, seconds=words.seconds, folder=words.folder, memory_mib=words.memory
    )
    try:
        with busy:
            for kind, fact in busy.facts.items():
                print(f"{kind:9} {fact}")
            time.sleep(words.seconds)
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"seed": words.seed, "seconds": words.seconds, "rounds": busy.rounds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
