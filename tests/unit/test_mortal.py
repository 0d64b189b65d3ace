"""The functions by which the kill matrix knows where a program is: one that was renamed is missed here, in milliseconds."""

from __future__ import annotations

import pytest

from tests.harness import mortal
from tests.unit.test_server_kill import STEPS


@pytest.mark.parametrize("table", ["AGENT", "AGENT_AFTER", "SERVER", "SERVER_AFTER"])
def test_every_mark_is_there_for_all_to_see(table: str) -> None:
    for where, say in getattr(mortal, table).items():
        mortal.found(where, say)
        assert "._" not in where and ":_" not in where, f"{where} is private: it may go at any time"


@pytest.mark.parametrize("where", STEPS)
def test_every_step_of_the_server_kill_is_there(where: str) -> None:
    mortal.found(where.removesuffix("-"), lambda: None)


def test_a_mark_that_is_gone_is_said() -> None:
    with pytest.raises(AttributeError, match="destroy_all"):
        mortal.found("twofold.agent.store:Store.destroy_all", lambda: None)
    with pytest.raises(TypeError, match="takes no folder"):
        mortal.found("twofold.agent.store:write_durably", lambda folder: folder)
