"""What the server is asked in a trace of `tests.model.history`, asked of the real one: the whole application with its gate and
its database. What it answers is compared with what the model's server did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
from blake3 import blake3

from tests.model.checker import Step
from tests.model.history import Fences, handle
from tests.model.records import Gen, Message, Server, World
from tests.unit.company_kit import index
from tests.unit.image_kit import Maker
from tests.unit.server_kit import Local
from twofold.model.generation import Manifest, SealedFile
from twofold.model.lease import Lease
from twofold.trust import request
from twofold.trust.device import Identity, identity
from twofold.trust.https import API
from twofold.trust.keys import SigningKey
from twofold.trust.signed import Context, sign, verify

WORKSPACE, FILE = "work", b"sealed" * 100
OWN = f"s-{0:016x}"


def prepared(folder: Path, devices: int) -> tuple[Local, list[Identity]]:
    """A server with a workspace and devices of its user, which nobody has checked out."""
    local, maker = Local(folder / "home"), Maker(SigningKey.make(), SigningKey.make())
    local.call("POST", "users", {"name": "ada", "password": "ada ada ada ada"})
    maker.begin(local)
    made, frames = index(folder, 1)
    sent = {"Authorization": f"Bearer {local.token}", "Content-Type": "application/octet-stream"}
    assert local.raw("POST", f"{API}/chunks", frames, sent).status_code == 200
    assert local.call("POST", "images/office/versions", maker.version(made, 1)).status_code == 201
    grant = {"user": "ada", "image": "office", "workspace": WORKSPACE, "title": "ACME", "colour": "green", "policy": {}}
    assert local.call("POST", "grants", grant).status_code == 201
    own = []
    for number in range(devices):
        who = identity(folder / f"device{number}")
        code = local.call("POST", "invitations", {"user": "ada"}).json()["code"]
        assert local.enrol(who, code, f"Device {number}").status_code == 201
        own.append(who)
    return local, own


@dataclasses.dataclass
class Replay:
    """One trace on one server, with what the model's server is like after each request."""

    local: Local
    devices: list[Identity]
    fences: Fences = dataclasses.field(default_factory=Fences)
    model: Server = dataclasses.field(default_factory=Server)

    def run(self, trace: Iterable[tuple[Step, World]]) -> list[tuple[str, str, str]]:
        """For each request: its words, what the model's server answers, what the real one does."""
        said = []
        for step, world in trace:
            if step.does == "break":
                told = self.local.call("GET", "workspaces/1/loss").json()
                assert self.local.call("POST", "workspaces/1/break", {"loss": told["loss"]}).status_code == 200
                self.model = self.model._replace(holder=-1)
            elif isinstance(step.does, tuple) and step.does[0] == "revoke":
                lost = self.devices[step.does[1]].device
                assert self.local.call("DELETE", f"devices/{lost}").status_code == 200
                self.model = world.server
            elif isinstance(step.does, Message):
                self.model, answers = handle(self.model, step.does, self.fences)
                expected = " ".join(sorted(f"{answer.verb} {answer.word}".strip() for answer in answers)) or "no"
                said.append((step.words, expected, self.ask(step.does)))
        return said

    def ask(self, message: Message) -> str:
        who = self.devices[message.device]
        call = {"checkout": self._checkout, "commit": self._commit, "beat": self._beat}.get(message.verb, self._leave)
        return call(who, message)

    def _checkout(self, who: Identity, message: Message) -> str:
        answer = self.local.device(who, "POST", "checkout", {"workspace": WORKSPACE, "speaks": ["generations-1"]})
        if answer.status_code != 200:
            return "no"
        lease = Lease.from_wire(verify(Context.LEASE, answer.json()["lease"], [self.local.home.signing.verify_key]))
        assert lease.token == self.model.token
        assert lease.to_wire()["head"] == self._id(self.model.head)
        return "lease"

    def _commit(self, who: Identity, message: Message) -> str:
        gen = message.gen
        assert gen is not None
        self._upload(who, gen.token)
        manifest = self._manifest(gen)
        body = {
            "workspace": WORKSPACE,
            "token": gen.token,
            "head": self._id(gen.parent),
            "generation": sign(Context.GENERATION, manifest.to_wire(), who.signing),
        }
        answer = self.local.device(who, "POST", "generations", body)
        if answer.status_code == 409:
            return "stale"
        return f"answer {answer.json()['kind']}" if answer.status_code in (200, 201) else "no"

    def _beat(self, who: Identity, message: Message) -> str:
        told = {"workspace": WORKSPACE, "token": message.token, "run": "running", "verified": 0, "transfer": None}
        body = {"speaks": ["generations-1", "epochs-1"], "workspaces": [told], "receipts": []}
        answer = self.local.device(who, "POST", "heartbeat", body)
        assert answer.status_code == 200, answer.text
        for row in answer.json()["leases"]:
            lease = Lease.from_wire(verify(Context.LEASE, row, [self.local.home.signing.verify_key]))
            if self.model.wanted:
                return "fresh" if lease.epoch == self.model.wanted else f"epoch {lease.epoch}"
        return "lost" if answer.json()["lost"] else "no"

    def _leave(self, who: Identity, message: Message) -> str:
        body: dict[str, Any] = {"workspace": WORKSPACE, "token": message.token}
        if message.verb == "checkin":
            body["generation"] = self._id(message.gen)
        answer = self.local.device(who, "POST", message.verb, body)
        return "left" if answer.status_code == 200 else "no"

    def line(self) -> list[dict[str, Any]]:
        """What the server keeps of the workspace."""
        rows: list[dict[str, Any]] = self.local.call("GET", "workspaces/1/generations").json()["generations"]
        return rows

    def _manifest(self, gen: Gen) -> Manifest:
        depth, at = 1, gen.parent
        while at is not None:
            depth, at = depth + 1, at.parent
        return Manifest(
            workspace=WORKSPACE, signer=self.devices[gen.device].verify_key.public.hex(), vault="ab" * 16, made=1,
            generation=depth, parent=self._id(gen.parent), time=1000 + depth, epoch=gen.epoch,
            note=f"work {gen.work}, token {gen.token}", root=f"{1:016x}", pieces=1, image="office", image_version=1,
            files=(SealedFile(OWN, len(FILE), blake3(FILE).hexdigest()),),
        )  # fmt: skip

    def _id(self, gen: Gen | None) -> str:
        return "" if gen is None else self._manifest(gen).id

    def _upload(self, who: Identity, token: int) -> None:
        digest = blake3(FILE).hexdigest()
        path = f"{API}/device/objects/{WORKSPACE}/{token}/{digest}?size={len(FILE)}"
        proof = request.headers(who.signing, self.local.home.signing.id, "PUT", path, b"")
        answer: httpx.Response = self.local.raw("PUT", path, FILE, proof | {"Content-Type": "application/octet-stream"})
        assert answer.status_code == 200, json.dumps(answer.json())
