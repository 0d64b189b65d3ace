"""Who may lay a line for a workspace's screen, and who may look at it; the lines themselves are the gateway's."""

from __future__ import annotations

import time
from collections.abc import Sequence

from anyio.to_thread import run_sync
from starlette.types import Receive, Send

from twofold.model.errors import RefusedError
from twofold.server import online, tickets
from twofold.server.context import Server
from twofold.server.gate import Caller
from twofold.server.gateway import PROTOCOL
from twofold.server.tables import Device, Lease, Token

_TICKET = "ticket."
_NO = "This screen is not to be had."


class Screens:
    """`twofold.server.gate.Screens`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def offer(self, caller: Caller, untrusted_workspace: str, receive: Receive, send: Send) -> None:
        grant = await run_sync(self._held, caller, untrusted_workspace)
        await self._server.gateway.offer(grant, caller.device, receive, send)

    async def view(self, caller: Caller, untrusted_protocols: Sequence[str], receive: Receive, send: Send) -> None:
        shown = [each.removeprefix(_TICKET) for each in untrusted_protocols if each.startswith(_TICKET)]
        if PROTOCOL not in untrusted_protocols or len(shown) != 1:
            raise RefusedError(_NO)
        grant = await run_sync(self._used, caller, shown[0])

        def still(holder: str) -> bool:
            return self._still(caller, grant, holder)

        await self._server.gateway.view(grant, caller.user_id, receive, send, still)

    def _held(self, caller: Caller, workspace: str) -> int:
        """A seat shows what it holds."""
        with self._server.database.read() as session:
            lease = online.mine(session, caller.user_id, workspace)
            if lease.device_id != caller.device or session.get_one(Device, caller.device).kind != online.SEAT:
                raise RefusedError(_NO)
            return lease.grant_id

    def _used(self, caller: Caller, untrusted_ticket: str) -> int:
        with self._server.database.write() as session:
            grant = tickets.use(session, caller.user_id, untrusted_ticket)
        if grant is None:
            raise RefusedError(_NO)
        return grant

    def _still(self, caller: Caller, grant: int, holder: str) -> bool:
        """The person is signed in, the workspace is theirs, and that machine holds it."""
        with self._server.database.read() as session:
            lease, token, now = session.get(Lease, grant), session.get(Token, caller.token), time.time()
            if lease is None or token is None or token.expires <= now or lease.grant.user_id != caller.user_id:
                return False
            seat = lease.device
            ended = 0 < lease.grant.ends <= now
            return not ended and seat is not None and seat.id == holder and not seat.revoked
