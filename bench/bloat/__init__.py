"""A busy host, named and seeded, like a handset full of its carrier's programs. Bounded, and it stops by itself.

with Bloat(["loops", "fsync"], seed=1) as busy:
    ...                      # measure here
busy.rounds                  # what each kind did: {"loops": 812, "fsync": 4031}
"""

from bench.bloat.host import Bloat
from bench.bloat.kinds import KINDS

__all__ = ["KINDS", "Bloat"]
