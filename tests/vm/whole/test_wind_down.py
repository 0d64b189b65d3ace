"""The last thing that happens to the machine of these tests."""

from __future__ import annotations

import pytest

from demo.stage import WORKSPACE
from tests.vm.whole.conftest import Whole

pytestmark = [pytest.mark.vm, pytest.mark.timeout(180)]


def test_stop_is_a_clean_shutdown_by_the_guests_agent(whole: Whole) -> None:
    done = whole.client.finish("stop", workspace=WORKSPACE)
    assert done["step"] == "asking the guest to shut down", "its agent did not; the power button had to"
    now = whole.client.call("info", workspace=WORKSPACE)
    assert now["run"] == "off" and not now["memory_stored"] and now["error"] is None
