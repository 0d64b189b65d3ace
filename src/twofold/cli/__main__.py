"""`python -m twofold.cli`: the command line from a source tree."""

from twofold.cli import main

if __name__ == "__main__":
    main()
