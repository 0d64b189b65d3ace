"""One kind of load as a program of its own; see `kinds`."""

import sys

from bench.bloat.kinds import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
