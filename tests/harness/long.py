"""Parameters of tests that are worth their time in a long run alone."""

from __future__ import annotations

from typing import Any

import pytest


def long(*values: object) -> list[Any]:
    """Values that run in `make soak` alone: each costs a check-out, and the first of its kind has shown the rule."""
    return [pytest.param(value, marks=pytest.mark.long) for value in values]
