"""A server for tests: in this process without a network, or a real one over TLS."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx

from tests.harness.postgres import Postgres, name_of
from twofold.model.canonical import canonical
from twofold.platform.run import spawn
from twofold.server.app import application
from twofold.server.client import Admin
from twofold.server.database import Database
from twofold.server.home import Home, load
from twofold.server.run import init
from twofold.trust import request
from twofold.trust.device import Identity
from twofold.trust.https import API

ADMIN, PASSWORD = "admin", "correct horse battery"
NAME = "https://localhost:8443"


class Backend:
    """Where servers of tests keep their tables: a file of each, or a database of each in a real PostgreSQL."""

    def __init__(self, cluster: Postgres | None = None) -> None:
        self.cluster = cluster

    def url(self) -> str:
        """A new, empty database; "" is a file in the server's folder."""
        return self.cluster.make() if self.cluster else ""

    def make(self, folder: Path, objects: str = "") -> Local:
        init(folder, ADMIN, PASSWORD, company="ACME", database=self.url(), objects=objects)
        return Local(folder)

    def copy(self, folder: Path, to: Path, token: str) -> Local:
        """A server like the one in `folder`, which must be closed."""
        shutil.copytree(folder, to)
        if self.cluster:
            path = to / "server.json"
            held = json.loads(path.read_bytes())
            path.write_bytes(canonical(held | {"database": self.cluster.make(name_of(held["database"]))}))
        return Local(to, token)


class Local:
    """The whole application, gate and all, called in this process."""

    def __init__(self, folder: Path, token: str = "") -> None:
        there = (folder / "server.json").exists()
        self.home: Home = load(folder) if there else init(folder, ADMIN, PASSWORD, company="ACME")
        self.database = Database(self.home.database)
        self.app = application(self.home, self.database)
        self.token = token

    def raw(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url=NAME) as client:
                return await client.request(method, path, content=content, headers=headers)

        return anyio.run(go)

    def call(self, method: str, what: str, body: Any = None, token: str | None = None) -> httpx.Response:
        """As a person: `token` None is the administrator's, empty is nobody's."""
        if token is None:
            self.token = self.token or self.login(ADMIN, PASSWORD)
            token = self.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        kind = {"Content-Type": "application/json"} if method in ("POST", "PUT") else {}
        return self.raw(method, f"{API}/{what}", b"" if body is None else json.dumps(body).encode(), headers | kind)

    def login(self, user: str, password: str) -> str:
        answer = self.call("POST", "login", {"user": user, "password": password}, token="")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    def device(self, who: Identity, method: str, what: str, body: Any = None) -> httpx.Response:
        sent, path = b"" if body is None else canonical(body), f"{API}/device/{what}"
        proof = request.headers(who.signing, self.home.signing.id, method, path, sent)
        kind = {"Content-Type": "application/json"} if method in ("POST", "PUT") else {}
        return self.raw(method, path, sent, proof | kind)

    def enrol(self, who: Identity, code: str, name: str = "Laptop", wrap: str = "") -> httpx.Response:
        body = {
            "code": code,
            "name": name,
            "public": who.verify_key.public.hex(),
            "wrap_public": wrap or hashlib.sha256(who.verify_key.public).hexdigest(),
        }
        sent, path = canonical(body), f"{API}/enrol"
        proof = request.headers(who.signing, "", "POST", path, sent)
        return self.raw("POST", path, sent, proof | {"Content-Type": "application/json"})


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Admin, Path]]:
    """A real server in a process of its own, and its administrator, signed in. Yields its log's path too."""
    home = init(folder / "server", ADMIN, PASSWORD, company="ACME")
    port, log = free_port(), folder / "server.log"
    argv = [sys.executable, "-m", "twofold.server", "--home", str(home.folder), "run", "--port", str(port)]
    with log.open("wb") as out:
        process = spawn(argv, env={"PYTHONPATH": str(Path(__file__).parents[2] / "src")}, stderr=out)
    admin = Admin(f"https://127.0.0.1:{port}", home.pin)
    try:
        admin.wait_ready(30)
        admin.login(ADMIN, PASSWORD)
        yield admin, log
    finally:
        admin.close()
        process.terminate()
        assert process.wait(15) == 0, log.read_text()[-2000:]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
