"""The administrator's client, as far as workspaces go, against the whole server in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.company_kit import company
from tests.unit.server_kit import Backend, Local
from tests.unit.vault_kit import device
from twofold.model.errors import BadInputError, ConflictError, NotFoundError
from twofold.model.policy import Scope
from twofold.server.client import Admin


class Direct(Admin):
    """The client without a network: what it would send is given to the server in this process."""

    def __init__(self, local: Local) -> None:
        super().__init__("https://localhost:8443", "0" * 64, local.token)
        self._local = local

    def _call(self, method: str, what: str, body: dict[str, Any] | None = None, limit: int = 8 << 20) -> dict[str, Any]:
        from twofold.model.errors import from_wire

        answer = self._local.call(method, what, body)
        found: dict[str, Any] = answer.json()
        if answer.status_code >= 400:
            raise from_wire(found["error"])
        return found


def test_workspaces_by_the_client(tmp_path: Path) -> None:
    local = company(Backend(), tmp_path)
    admin, mine = Direct(local), device(local, tmp_path / "a", name="First")
    mine.check_out()
    first = mine.back_up()
    number = admin.find_workspace("ada", "work")["number"]
    with pytest.raises(NotFoundError):
        admin.find_workspace("bob", "work")
    assert admin.workspace(number)["holders"][0]["device_id"] == mine.who.device
    assert [row["id"] for row in admin.list_generations(number)] == [first]
    assert all(row["here"] for row in admin.generation(number, first)["files"])
    asked = admin.ask(number, "replicate")
    admin.withdraw(number, asked["command"])
    assert [row["state"] for row in admin.list_asked(number)] == ["withdrawn"]
    with pytest.raises(ConflictError):
        admin.break_lease(number, "0" * 64)
    assert admin.break_lease(number, admin.loss(number)["loss"], "stolen") == mine.who.device
    assert admin.workspace(number)["head"] == first
    restored = admin.restore(number, first, first)
    assert admin.workspace(number)["head"] == restored
    assert admin.keys(number) is None
    assert admin.set_policy(Scope.GLOBAL, "", {"usb": True}) == 1
    assert admin.set_policy(Scope.WORKSPACE, str(number), {"usb": False}) == 1
    assert {row["rule"]: row["scope"] for row in admin.explain_policy(number)}["usb"] == "workspace"
    assert admin.list_policies()[0]["rules"] == {"usb": True}
    with pytest.raises(BadInputError):
        admin.set_policy(Scope.USER, "ada", {"nonsense": 1})
    local.database.close()
