"""The right to run a workspace now: one holder, a fencing token, an expiry, the policy; signed by the server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError
from twofold.model.names import colour, slug, title
from twofold.model.policy import Policy

SCHEMA, SECOND = "twofold-lease-1", "twofold-lease-2"
_ADDED = ("epoch", "head", "content")


@dataclass(frozen=True)
class Lease:
    """`device` is the hex SHA-256 of the holder's public key. `token` grows with each new holder (fencing). Times are Unix
    seconds; `expires` 0 means without end, as in leases of the first schema. `epoch` is the least key epoch that the holder
    may write in, 0 in the first schema; `head` is what its next commit builds on and `content` the manifest to begin from (ids;
    "" for none)."""

    workspace: str
    title: str
    colour: str
    user: str
    device: str
    token: int
    image: str
    image_version: int
    issued: int
    expires: int
    policy: Policy
    epoch: int = 0
    head: str = ""
    content: str = ""

    def to_wire(self) -> dict[str, Any]:
        body = dataclasses.asdict(self)
        if self.epoch:
            return {"schema": SECOND} | body | {"policy": self.policy.to_wire_second()}
        first = {name: value for name, value in body.items() if name not in _ADDED}
        return {"schema": SCHEMA} | first | {"policy": self.policy.to_wire_first()}

    @classmethod
    def from_wire(cls, untrusted_lease: object) -> Lease:
        """Validate a lease's shape. Its signature is checked before, over the bytes, by `trust`."""
        if not isinstance(untrusted_lease, dict) or untrusted_lease.get("schema") not in (SCHEMA, SECOND):
            raise BadInputError(
                "This is not a lease this version can read.", next="Update Twofold on the device or the server."
            )
        body = {key: value for key, value in untrusted_lease.items() if key != "schema"}
        first = untrusted_lease["schema"] == SCHEMA
        names = {f.name for f in dataclasses.fields(cls)} - (set(_ADDED) if first else set())
        if body.keys() != names:
            raise BadInputError(
                f"The lease's fields are off: {', '.join(sorted(map(str, body.keys() ^ names)))[:200]}."
            )
        if first:
            body |= {"epoch": 0, "head": "", "content": ""}
        for name in ("token", "image_version", "issued", "expires", "epoch"):
            if type(body[name]) is not int or body[name] < (not first if name == "epoch" else 0):
                raise BadInputError(f"The lease's {name} is not a count.")
        for name in ("workspace", "title", "colour", "user", "device", "image"):
            if type(body[name]) is not str:
                raise BadInputError(f"The lease's {name} is not text.")
        for name in ("head", "content"):
            if type(body[name]) is not str or (body[name] and not _digest(body[name])):
                raise BadInputError(f"The lease's {name} is not a generation.")
        if not _digest(body["device"]):
            raise BadInputError("The lease's device is not a key's digest.")
        return cls(
            workspace=slug(body["workspace"], "a workspace"),
            title=title(body["title"], "a workspace's name"),
            colour=colour(body["colour"]),
            user=slug(body["user"], "a user"),
            device=body["device"],
            token=body["token"],
            image=slug(body["image"], "an image"),
            image_version=body["image_version"],
            issued=body["issued"],
            expires=body["expires"],
            policy=Policy.from_wire(body["policy"]),
            epoch=body["epoch"],
            head=body["head"],
            content=body["content"],
        )


def _digest(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")
