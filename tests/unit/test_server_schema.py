"""Schemathesis over every endpoint, in this process: nothing that a caller may send makes the server fail, and it answers as
docs/openapi-v1.json says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase

from tests.unit.company_kit import company
from tests.unit.server_kit import Backend, Local
from tests.unit.vault_kit import Device, device
from twofold.server.app import routes
from twofold.trust import request
from twofold.trust.https import API

DOCUMENT = routes().openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
FEW = hypothesis.settings(
    max_examples=8,
    deadline=None,
    derandomize=True,  # the same requests each time: what fails here fails at home
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
OPERATIONS = sorted(
    (method.upper(), path) for path, verbs in DOCUMENT["paths"].items() for method in verbs if path != f"{API}/logout"
)


@pytest.fixture(scope="module")
def world(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Local, Device]]:
    folder = tmp_path_factory.mktemp("schema")
    local = company(backend, folder)
    mine = device(local, folder / "a")
    mine.check_out()
    mine.back_up()
    yield local, mine
    local.database.close()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_it_fail(world: tuple[Local, Device], method: str, path: str) -> None:
    local, mine = world
    operation = SCHEMA[path][method]
    statuses: set[int] = set()

    @FEW
    @hypothesis.given(
        operation.as_strategy() | operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    )
    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="https://localhost:8443")
        if (
            path.endswith("/wait")
            and isinstance(sent.get("json"), dict)
            and sent["json"].get("seconds") in range(1, 51)
        ):
            sent["json"]["seconds"] = 0  # as good a question, and nobody waits for the answer
        body = _body(sent)
        target = _target(sent)
        if target is None:
            return
        headers = {"Content-Type": _kind(method, path)} if method in ("POST", "PUT") else {}
        answer = local.raw(method, target, body, headers | _proof(local, mine, method, path, target, body))
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (answer.text, target, body)
        if answer.status_code >= 400:
            assert answer.json()["error"]["code"]

    ask()
    assert statuses


def _proof(local: Local, mine: Device, method: str, path: str, target: str, body: bytes) -> dict[str, str]:
    if path.startswith(f"{API}/device/"):
        signed = b"" if method == "PUT" else body
        return request.headers(mine.who.signing, local.home.signing.id, method, target, signed)
    return {"Authorization": f"Bearer {local.token}"}


def _kind(method: str, path: str) -> str:
    binary = path == f"{API}/chunks" or (method == "PUT" and path.startswith(f"{API}/device/objects/"))
    return "application/octet-stream" if binary else "application/json"


def _body(sent: dict[str, Any]) -> bytes:
    if "json" in sent:
        return json.dumps(sent["json"]).encode()
    data = sent.get("data")
    return data if isinstance(data, bytes) else str(data or "").encode(errors="replace")


def _target(sent: dict[str, Any]) -> str | None:
    """Path and query as they go over the wire; None where no client could send them."""
    import httpx

    try:
        url = httpx.URL(sent["url"], params=sent.get("params") or None)
    except (httpx.InvalidURL, TypeError, ValueError):
        return None
    return url.raw_path.decode("ascii")


def test_every_route_is_asked() -> None:
    held = json.loads((Path(__file__).parents[2] / "docs" / "openapi-v1.json").read_text())
    assert {path for _, path in OPERATIONS} == set(held["paths"]) - {f"{API}/logout"}
