"""What a workspace may keep on the server where its person may have its disk made larger."""

from __future__ import annotations

import json

from sqlalchemy import select

from tests.unit.server_kit import Local
from tests.unit.test_server_generations import parts
from twofold.server import quotas
from twofold.server.tables import Grant, Variant


def limit(server: Local) -> int:
    found = parts(server)
    with found.database.read() as session:
        return quotas.limit(session, found, session.get_one(Grant, 1))


def test_a_disk_counts_as_large_as_the_company_lets_it_be(server: Local) -> None:
    with server.database.read() as session:
        manifest = json.loads(session.scalars(select(Variant.manifest)).one())
    system = sum(part["size"] for part in manifest["parts"] if part["name"] == "system")
    before = limit(server)
    assert server.call("PUT", "policies/global", {"rules": {"disk_gib": 8}}).status_code == 200
    assert limit(server) == 4 * (system + (8 << 30)) > before
    assert server.call("PUT", "policies/global", {"rules": {}}).status_code == 200
    assert limit(server) == before
