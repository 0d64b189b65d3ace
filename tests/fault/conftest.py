"""One company for all fault tests; a device of its own for each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.company import Company, Device
from tests.harness.relay import Relay
from twofold.agent.client import Client

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    with Company(tmp_path_factory.mktemp("company")) as made:
        made.publish("tiny")
        made.publish("mute", has_agent=True)
        made.publish("direct", direct=True)
        yield made


@pytest.fixture
def user(company: Company) -> str:
    """Somebody who may check out `work` (without a guest agent), `mute` (whose guest agent never answers) and `direct` (whose
    kernel is noise)."""
    name = company.user(f"user{next(_NUMBERS)}")
    company.grant(name, "tiny", "work", "blue")
    company.grant(name, "mute", "mute", "vermilion")
    company.grant(name, "direct", "direct", "teal")
    return name


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path / "device")
    yield made
    made.close()


@pytest.fixture
def line(company: Company) -> Iterator[Relay]:
    """What a device reaches its server by, where a test puts it between them."""
    with Relay(company.port) as made:
        yield made


@pytest.fixture
def client(company: Company, user: str, device: Device) -> Iterator[Client]:
    """An enrolled device's agent."""
    with device.start() as connected:
        connected.call("enrol", url=company.admin.invite_device(user), name="laptop")
        yield connected


@pytest.fixture
def work(client: Client) -> str:
    """A workspace that is checked out and off."""
    client.finish("checkout", workspace="work", limit=60)
    return "work"
