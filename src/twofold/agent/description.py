"""A workspace, as those who watch the agent are told of it (docs/protocol.md, chapter 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twofold.agent import change, rights
from twofold.agent.supply import wire
from twofold.model.names import PALETTE
from twofold.model.policy import Policy

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace


def describe(ws: Workspace) -> dict[str, Any]:
    lease, image, record = ws.lease, ws.image, ws.record
    return {
        "workspace": ws.name,
        "title": ws.title,
        "colour": PALETTE.get(record.colour or (lease.colour if lease else ""), PALETTE["blue"]),
        "key": record.key,
        "custody": record.custody,
        "run": ws.run,
        "doze": ws.doze.state,
        "whereabouts": {
            "in_memory": ws.machine is not None,
            "on_disk_verified_at": record.on_disk_verified_at,
            "on_server_at": record.on_server_at,
        },
        "image": lease.image if lease else "",
        "version": image.version if image else lease.image_version if lease else 0,
        "pending": change.pending(record),
        "system_holds": change.lost(ws),
        "accelerator": record.accelerator if ws.machine else "",
        "agent_up": ws.guest is not None and ws.guest.up,
        "session_up": ws.guest is not None and ws.guest.session_up,
        "error": ws.wrong.to_wire() if ws.wrong else record.error,
        "warning": rights.warning(lease, record) if lease and not ws.wrong else None,
        "shut": ws.shut(),
        "policy": (lease.policy if lease else Policy()).to_wire(),
        "expires": rights.runs_until(lease, record) if lease else 0,
        "pid": ws.machine.pid if ws.machine else 0,
        "memory_stored": record.memory_stored,
        "code": ws.code(),
        "launched_at": record.launched_at,
        "has_agent": bool(image and image.has_agent),
        "base": wire(ws.stock),
        "rest": wire(ws.rest),
    }
