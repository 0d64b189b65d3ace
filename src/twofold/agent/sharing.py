"""Keys that go with a back up, so that a node can go on from a device and a device from a node (docs/decisions/0020-nodes.md).

A device wraps for its company's nodes, a seat on a node for the devices of its user; each for machines alone that vouch for
their key with what no server has. The policy must let keys leave.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, RefusedError
from twofold.trust.keys import hex_bytes
from twofold.trust.vouch import DEVICE, NODE, holds

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace

log = logging.getLogger(__name__)
_MOST = 16  # machines that one back up is wrapped for


def keys(ws: Workspace) -> bytes:
    """`key.wrapped` as a back up takes it to the server: with wraps for those who may go on from it. Blocks."""
    lease, _ = ws.whole()
    own, remote = ws.keys(), ws.rooms.remote()
    if not lease.policy.keys_leave or not remote.online():
        return own.wrapped
    vaults, seat = ws.rooms.vault, remote.enrolment.kind == "seat"
    user = remote.enrolment.user
    good = partial(_vouched, remote.enrolment.reading, DEVICE if seat else NODE, user if seat else "")
    wanted = [public for row in remote.machines() if (public := good(row)) and public != vaults.device_key()]
    document = json.loads(own.wrapped)
    for public in wanted[:_MOST]:
        try:
            document["wraps"] += json.loads(vaults.rewrap(own, public, allowed=True).wrapped)["wraps"]
        except RefusedError as no:
            log.info("a key was not wrapped: %s", no.happened, extra={"workspace": ws.name})
    return canonical(document)


def _vouched(reading: bytes, kind: str, user: str, untrusted_row: dict[str, Any]) -> bytes:
    """The machine's X25519 key, if it is one of this kind, not revoked, and vouches for it; b"" otherwise."""
    try:
        device, wrap = untrusted_row["device"], untrusted_row["wrap_public"]
        public = hex_bytes(wrap, 32, "a device's public key")
        hex_bytes(device, 32, "a device's id")
        same = untrusted_row["kind"] == kind and untrusted_row["revoked"] == 0
        return public if same and holds(reading, untrusted_row["vouch"], kind, user, device, wrap) else b""
    except (KeyError, BadInputError):
        return b""
