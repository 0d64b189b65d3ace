"""The phone's harness without a phone: how photographs are compared."""

from __future__ import annotations

import numpy as np
import pytest

from phone.handset import differing, like


def test_pictures_are_compared_by_what_is_seen() -> None:
    one = np.zeros((100, 50, 3), np.uint8)
    other = one.copy()
    other[:10] = (0, 0, 5)
    assert differing(one, other) == 0
    other[:10] = (0, 0, 50)
    assert differing(one, other) == pytest.approx(0.1)
    assert differing(one, other[:50]) == 1
    assert like((0, 0, 52), other).mean() == pytest.approx(0.1)
