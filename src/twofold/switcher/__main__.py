"""`python -m twofold.switcher`."""

from __future__ import annotations

import sys

from twofold.switcher.main import main

sys.exit(main())
