"""How starts of an image version went, told to the server with a heartbeat: a roll-out stops when too many fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from twofold.agent.change import NOT_THE_IMAGE, PATIENCE
from twofold.agent.operations import Operation

if TYPE_CHECKING:
    from twofold.agent.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    operation: str
    image: str
    version: int
    good: bool


def outcomes(
    operations: Iterable[Operation], find: Callable[[str], Workspace | None], told: set[str], now: float
) -> Iterator[Outcome]:
    """The starts of which something can be said and nothing was `told` (ids of operations) yet. What died with a former agent is
    not known; one device of many does not matter."""
    for operation in operations:
        ws = find(operation.workspace)
        if (
            operation.former
            or operation.verb != "start"
            or not operation.over
            or operation.id in told
            or ws is None
            or ws.lease is None
        ):
            continue
        good = _good(operation, ws, now)
        if (failed := operation.result.get("gave_way")) is not None:
            yield Outcome(operation.id, ws.lease.image, failed, good=False)
        elif good is not None:
            version = ws.image.version if ws.image is not None else ws.lease.image_version
            yield Outcome(operation.id, ws.lease.image, version, good)


def _good(operation: Operation, ws: Workspace, now: float) -> bool | None:
    if operation.state == "failed" and operation.error is not None:
        return None if operation.error.code in NOT_THE_IMAGE else False
    if operation.state != "done" or "already" in operation.result or operation.result.get("resumed"):
        return None
    if ws.guest is not None and ws.guest.session_up:
        return True
    if ws.machine is None:
        return None  # switched off before its desktop came: by whom can't be told
    has_agent = ws.image is not None and ws.image.has_agent
    late = now > operation.ended + PATIENCE
    return not has_agent if late else None
