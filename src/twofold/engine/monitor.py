"""QEMU's control socket (QMP), reached anew by each agent. A thin face over `qemu.qmp`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate

from twofold.model.errors import TimedOutError, TwofoldError, UnreachableError


class CommandFailedError(TwofoldError):
    """QEMU refused a command; `reason` is its own sentence."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"QEMU refused {command}: {reason}")
        self.reason = reason


class Monitor:
    """One connection. Commands run one at a time and always end."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client
        self._turn, self._closing, self._closed = asyncio.Lock(), asyncio.Lock(), False

    @classmethod
    async def connect(cls, path: Path, seconds: float = 5) -> Monitor:
        """Connect to the socket that QEMU listens on.

        Raises:
            UnreachableError: nobody is there. TimedOutError: somebody is, and does not greet (another agent holds it).
        """
        client = QMPClient("twofold")
        client.await_greeting = client.negotiate = True
        try:
            await asyncio.wait_for(client.connect(str(path)), seconds)
        except TimeoutError as late:
            raise TimedOutError(
                f"QEMU did not greet within {seconds:g} s.", next="Is another agent using it?"
            ) from late
        except (QMPError, OSError) as gone:
            raise UnreachableError("QEMU's control socket does not answer.") from gone
        return cls(client)

    async def run(self, command: str, fd: int | None = None, seconds: float = 10, **arguments: Any) -> Any:
        """Run a command, handing over the descriptor `fd` with it. Underscores in argument names become hyphens.

        Raises:
            CommandFailedError: refused. UnreachableError: QEMU has ended. TimedOutError.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            async with self._turn, asyncio.timeout(seconds):
                if fd is not None:
                    self._client.send_fd_scm(fd)
                return await self._client.execute(command, named or None)
        except ExecuteError as refused:
            raise CommandFailedError(command, refused.error.error.desc) from refused
        except TimeoutError as late:
            raise TimedOutError(f"QEMU did not answer {command} within {seconds:g} s.") from late
        except (QMPError, ExecInterruptedError, OSError) as gone:
            raise UnreachableError(f"QEMU ended before it answered {command}.") from gone

    @contextlib.asynccontextmanager
    async def events(self, *names: str) -> AsyncIterator[EventListener]:
        with self._client.listener(names) as listener:
            yield listener

    def watch(self, names: tuple[str, ...], heard: Callable[[Message], None]) -> None:
        """Call `heard` with each event of these names, from now on."""

        def accept(event: Message) -> bool:
            heard(event)
            return False

        self._client.register_listener(EventListener(names, accept))

    async def drained(self, seconds: float = 1) -> None:
        """Wait until QEMU's last words, such as why it ends, have been read: they may come later than its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._closed and self._client.runstate is Runstate.RUNNING:
                    await self._client.runstate_changed()

    async def close(self) -> None:
        """Idempotent, and safe to call from several tasks: qemu.qmp's own disconnect is neither."""
        async with self._closing:
            if not self._closed:
                self._closed = True
                with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):  # EOFError: QEMU was killed
                    await asyncio.wait_for(self._client.disconnect(), 2)
