"""A device without a vault process: it makes files of random bytes, and the manifests that name them, signed."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any

import httpx
from blake3 import blake3

from tests.unit.server_kit import Local
from twofold.model.generation import Manifest, SealedFile
from twofold.model.lease import Lease
from twofold.trust import request
from twofold.trust.device import Identity, identity
from twofold.trust.https import API
from twofold.trust.signed import Context, sign, verify

SPEAKS = ["generations-1"]
WORK = "work"


def keys(*epochs: int, wraps: tuple[dict[str, Any], ...] = (), workspace: str = "work") -> dict[str, Any]:
    """Wrapped keys of these epochs; what they seal is noise."""
    rows = [{"epoch": epoch, "older": f"{epoch:02x}" if epoch > 1 else ""} for epoch in epochs]
    return {"schema": "twofold-keys-1", "workspace": workspace, "epochs": rows, "wraps": list(wraps)}


@dataclasses.dataclass
class Device:
    """Holds a lease, and speaks of it as the protocol says. `files` are those of its newest generation, by digest."""

    server: Local
    who: Identity
    token: int = 0
    head: str = ""
    content: str = ""
    epoch: int = 1
    vault: str = dataclasses.field(default_factory=lambda: secrets.token_hex(16))
    number: int = 0
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    names: dict[str, str] = dataclasses.field(default_factory=dict)

    def call(self, method: str, what: str, body: Any = None) -> httpx.Response:
        return self.server.device(self.who, method, what, body)

    def check_out(self, workspace: str = "work") -> httpx.Response:
        answer = self.call("POST", "checkout", {"workspace": workspace, "speaks": SPEAKS})
        if answer.status_code == 200:
            self.take(answer.json()["lease"])
        return answer

    def take(self, signed: dict[str, Any]) -> Lease:
        lease = Lease.from_wire(verify(Context.LEASE, signed, [self.server.home.signing.verify_key]))
        self.token, self.head, self.content, self.epoch = lease.token, lease.head, lease.content, lease.epoch
        return lease

    def write(self, size: int = 3000) -> None:
        """One more segment."""
        body = secrets.token_bytes(size)
        digest = blake3(body).hexdigest()
        self.files[digest] = body
        self.names[digest] = f"s-{len(self.files):016x}"

    def manifest(self, **changes: Any) -> dict[str, Any]:
        """The next generation, signed."""
        self.number += 1
        rows = sorted((name, len(self.files[digest]), digest) for digest, name in self.names.items())
        made = Manifest(
            workspace="work", signer=self.who.verify_key.public.hex(), vault=self.vault, made=1, generation=self.number,
            parent=self.content, time=1_790_000_000, note="", epoch=self.epoch, root=f"{len(rows) << 14:016x}", pieces=1,
            image="office", image_version=1, files=tuple(SealedFile(*row) for row in rows),
        )  # fmt: skip
        return sign(Context.GENERATION, dataclasses.replace(made, **changes).to_wire(), self.who.signing)

    def missing(self, token: int | None = None) -> httpx.Response:
        objects = [{"digest": digest, "size": len(body)} for digest, body in self.files.items()]
        body = {"workspace": "work", "token": token or self.token, "objects": objects}
        return self.call("POST", "objects/missing", body)

    def put(self, digest: str, body: bytes, size: int, offset: int = 0, token: int | None = None) -> httpx.Response:
        path = f"{API}/device/objects/{WORK}/{token or self.token}/{digest}?size={size}&offset={offset}"
        proof = request.headers(self.who.signing, self.server.home.signing.id, "PUT", path, b"")
        return self.server.raw("PUT", path, body, proof | {"Content-Type": "application/octet-stream"})

    def upload(self) -> int:
        """Send what the server lacks; returns how many files that were."""
        rows = self.missing().json()["missing"]
        for row in rows:
            body = self.files[row["digest"]]
            assert self.put(row["digest"], body[row["have"] :], len(body), row["have"]).json() == {"have": len(body)}
        return len(rows)

    def commit(self, signed: dict[str, Any] | None = None, **changes: Any) -> httpx.Response:
        """Commit a generation of what is there; what came of it is what the next one follows."""
        document = signed or self.manifest()
        body = {"workspace": "work", "token": self.token, "head": self.head, "generation": document} | changes
        answer = self.call("POST", "generations", body)
        if answer.status_code in (200, 201) and answer.json()["kind"] == "line":
            self.head = self.content = answer.json()["id"]
        return answer

    def back_up(self, size: int = 3000) -> str:
        """Write, send, commit; returns the generation's id."""
        self.write(size)
        self.upload()
        answer = self.commit()
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def heartbeat(self, **told: Any) -> dict[str, Any]:
        rows = [{"workspace": "work", "token": self.token} | told] if self.token else []
        answer = self.call("POST", "heartbeat", {"speaks": SPEAKS, "workspaces": rows})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def device(server: Local, folder: Path, user: str = "ada", name: str = "Laptop") -> Device:
    """A new device of a user, enrolled."""
    who = identity(folder)
    code = server.call("POST", "invitations", {"user": user}).json()["code"]
    answer = server.enrol(who, code, name)
    assert answer.status_code == 201, answer.text
    return Device(server, who)
