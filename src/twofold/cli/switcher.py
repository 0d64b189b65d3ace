"""The person's window, started from the command line."""

from __future__ import annotations
