"""The right to run a workspace now: one holder, a fencing token, an expiry, the policy; signed by the server."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from twofold.model.errors import BadInputError
from twofold.model.names import colour, slug, title
from twofold.model.policy import Policy

SCHEMA = "twofold-lease-1"


@dataclass(frozen=True)
class Lease:
    """`device` is the hex SHA-256 of the holder's public key. `token` grows with each new holder (fencing). Times are Unix
    seconds; `expires` 0 means without end, which is what the main job issues until leases are complete."""

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

    def to_wire(self) -> dict[str, Any]:
        return {"schema": SCHEMA} | dataclasses.asdict(self)

    @classmethod
    def from_wire(cls, untrusted_lease: object) -> Lease:
        """Validate a lease's shape. Its signature is checked before, over the bytes, by `trust`."""
        if not isinstance(untrusted_lease, dict) or untrusted_lease.get("schema") != SCHEMA:
            raise BadInputError(
                "This is not a lease this version can read.", next="Update Twofold on the device or the server."
            )
        body = {key: value for key, value in untrusted_lease.items() if key != "schema"}
        names = {f.name for f in dataclasses.fields(cls)}
        if body.keys() != names:
            raise BadInputError(
                f"The lease's fields are off: {', '.join(sorted(map(str, body.keys() ^ names)))[:200]}."
            )
        for name in ("token", "image_version", "issued", "expires"):
            if type(body[name]) is not int or body[name] < 0:
                raise BadInputError(f"The lease's {name} is not a count.")
        for name in ("workspace", "title", "colour", "user", "device", "image"):
            if type(body[name]) is not str:
                raise BadInputError(f"The lease's {name} is not text.")
        if len(body["device"]) != 64 or body["device"].strip("0123456789abcdef"):
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
        )
