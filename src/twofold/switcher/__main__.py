"""`python -m twofold.switcher`."""

from __future__ import annotations

import os
import sys

from twofold.switcher.main import main

code = main()
sys.stdout.flush()
sys.stderr.flush()
# PySide 6.12 on Python 3.11 dies with "none_dealloc" while the interpreter takes itself apart; all of ours is closed by now.
os._exit(code)
