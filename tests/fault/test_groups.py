"""A group's workspace on a real device: the pilot's version, and what is left of it when its person is put out."""

from __future__ import annotations

import os

import pytest

from tests.fault.test_roaming import until
from tests.harness.company import Company, Device, tiny
from twofold.agent.client import Client
from twofold.image.catalogue import Catalogue
from twofold.model.errors import NotFoundError, RefusedError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def user(company: Company) -> str:
    """Somebody who has nothing of their own."""
    return company.user(f"member{os.urandom(3).hex()}")


def test_a_member_has_the_pilots_version_until_put_out(
    company: Company, client: Client, user: str, device: Device
) -> None:
    company.publish("piloted")
    second = tiny(company.folder / "piloted-2", "piloted")
    company.admin.publish_image(second, company.publisher, share=0)
    Catalogue(company.publisher, company.admin).promote("piloted", 2, "testing")
    company.admin.create_group("pilot")
    company.admin.grant_group("pilot", "piloted", "work", "Work", "blue", channel="testing")
    with pytest.raises(NotFoundError):
        client.finish("checkout", workspace="work", limit=60)
    company.admin.join_group("pilot", user)
    assert client.call("available")["grants"][0]["version"] == 2
    client.finish("checkout", workspace="work", limit=60)
    assert client.call("info", workspace="work")["version"] == 2
    company.admin.leave_group("pilot", user)
    until(lambda: client.call("info", workspace="work")["error"] is not None)
    assert "taken back" in client.call("info", workspace="work")["error"]["happened"]
    with pytest.raises(RefusedError, match="taken back"):
        client.finish("start", workspace="work")
    assert client.call("available")["grants"] == []
    key = device.dirs.state / "workspaces" / "work" / "key.wrapped"
    assert key.exists(), "nothing was removed"
    company.admin.join_group("pilot", user)
    until(lambda: client.call("info", workspace="work")["error"] is None)
