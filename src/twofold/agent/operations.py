"""Operations: long work as a resource with an id, progress, cancel and one queue for each workspace."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from twofold.agent.store import no_room
from twofold.model.errors import ConflictError, NotFoundError, TwofoldError

log = logging.getLogger(__name__)
_KEPT = 100  # ended operations that can still be asked for
TRANSFER = "transfer"  # the lane of what goes to and from the server beside other work
AT_ONCE = "order"  # the lane of what the company wants at once: it waits for nobody
_TELL_EVERY = 0.1  # seconds between two events about the same step
_T = TypeVar("_T")

Listener = Callable[["Operation"], None]
Work = Callable[["Operation"], Awaitable[dict[str, Any]]]


class CancelledByPersonError(TwofoldError):
    """Raised inside the work when its operation was cancelled; the work's exit stack then undoes what was done."""

    code = "cancelled"


class Operation:
    """One piece of long work. Progress may be told from any thread; all else happens on the loop."""

    def __init__(self, verb: str, workspace: str, args: Mapping[str, Any], tell: Listener, lane: str = "") -> None:
        self.id, self.lane = secrets.token_hex(8), lane
        self.verb, self.workspace, self.args = verb, workspace, dict(args)
        self.state = "queued"
        self.step, self.done, self.total = "", 0, 0
        self.whole = 0  # bytes that the work is about, of which `total` have to travel
        self._begun = (0.0, 0)
        self.started = self.ended = 0
        self.error: TwofoldError | None = None
        self.result: dict[str, Any] = {}
        self._tell, self._told = tell, 0.0
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stop = threading.Event()
        self._stopped = asyncio.Event()
        self._committed = ""

    def to_wire(self) -> dict[str, Any]:
        return {
            "operation": self.id, "verb": self.verb, "workspace": self.workspace, "state": self.state,
            "step": self.step, "done": self.done, "total": self.total, "whole": self.whole, "rate": self.rate,
            "left": self.left, "started": self.started, "ended": self.ended,
            "error": None if self.error is None else self.error.to_wire(), "result": self.result,
        }  # fmt: skip

    @property
    def over(self) -> bool:
        return self._ended.is_set()

    @property
    def rate(self) -> int:
        """Bytes a second of this step, 0 where it can't be told."""
        at, done = self._begun
        seconds = time.monotonic() - at
        return int((self.done - done) / seconds) if self.total and not self.over and seconds > 0.5 else 0

    @property
    def left(self) -> int:
        """Seconds until this step ends if it goes on so; 0 where it can't be told."""
        return (self.total - self.done) // self.rate if self.rate > 0 else 0

    def progress(self, step: str, done: int, total: int) -> None:
        """A `Progress`. Raises CancelledByPersonError in whatever thread does the work once the operation is cancelled."""
        self.check()
        changed = step != self.step
        if changed or done < self.done:
            self._begun = time.monotonic(), done
        self.step, self.done, self.total = step, done, total
        now = time.monotonic()
        if changed or done == total or now - self._told >= _TELL_EVERY:
            self._told = now
            self._loop.call_soon_threadsafe(self._tell, self)

    def check(self) -> None:
        """Raises CancelledByPersonError where the person has cancelled and the work may still be undone."""
        if self._stop.is_set() and not self._committed:
            raise CancelledByPersonError("This was cancelled.", safe="Everything done so far was undone.")

    def commit(self, why: str) -> None:
        """From here on the work can't be undone, only finished; `why` is said to whoever cancels later."""
        self.check()
        self._committed = why

    async def or_cancelled(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await `work`, or cancel it as soon as the person cancels."""
        self.check()
        doing = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done() and not self._committed:
                doing.cancel()
                await asyncio.wait({doing})
                self.check()
            return await doing
        finally:
            stopping.cancel()

    def cancel(self) -> None:
        if self.over:
            return
        if self._committed:
            raise ConflictError(self._committed, safe="Nothing was changed.", next="Let it end; it will not take long.")
        self._stop.set()
        self._stopped.set()

    async def wait(self, seconds: float | None) -> None:
        """Until it has ended or `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass  # the caller looks at `state`

    async def run(self, work: Work) -> None:
        if not self._stop.is_set():
            self.state, self.started = "running", int(time.time())
            self._tell(self)
        try:
            self.check()
            self.result = await work(self)
            self.state = "done"
        except CancelledByPersonError as stopped:
            self.state, self.error = "cancelled", stopped
        except TwofoldError as failed:
            self.state, self.error = "failed", failed
        except asyncio.CancelledError:
            self.state = "cancelled"
            self.error = TwofoldError("The agent ended while this was under way.", next="Do it again.")
            raise
        except Exception as unforeseen:
            if (full := no_room(unforeseen)) is not None:
                self.state, self.error = "failed", full
                return
            log.exception("operation failed", extra={"verb": self.verb, "workspace": self.workspace})
            self.state = "failed"
            self.error = TwofoldError(
                f"Something we did not foresee went wrong ({type(unforeseen).__name__}: {unforeseen!s:.200}).",
                next="Look at the agent's log:  twofold log",
            )
        finally:
            self.ended = int(time.time())
            self._ended.set()
            self._tell(self)


class Operations:
    """All operations of this agent. One workspace's run one after the other; asking for one twice gives the same one."""

    def __init__(self, tell: Listener) -> None:
        self._tell = tell
        self._all: OrderedDict[str, Operation] = OrderedDict()
        self._queues: dict[tuple[str, str], asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, verb: str, workspace: str, args: Mapping[str, Any], work: Work, lane: str = "") -> Operation:
        """Queue `work`, or return the operation that does the same already and has not ended. Work of another `lane` of the same
        workspace may run beside it, and takes its `turn` where it must not."""
        for known in self._all.values():
            if not known.over and (known.verb, known.workspace, known.args) == (verb, workspace, dict(args)):
                return known
        operation = Operation(verb, workspace, args, self._tell, lane)
        self._all[operation.id] = operation
        self._forget()
        task = asyncio.get_running_loop().create_task(self._run(operation, work, lane), name=f"{verb} {workspace}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._tell(operation)
        return operation

    def turn(self, workspace: str, lane: str = "") -> asyncio.Lock:
        """While it is held nothing else of this lane runs. Who needs two takes the one of "" last."""
        return self._queues.setdefault((workspace, lane), asyncio.Lock())

    async def _run(self, operation: Operation, work: Work, lane: str) -> None:
        async with self.turn(operation.workspace, lane):
            await operation.run(work)

    def under_way(self, workspace: str, lane: str) -> list[Operation]:
        """What of a lane has not ended, the running one first."""
        return [
            each for each in self._all.values() if (each.workspace, each.lane, each.over) == (workspace, lane, False)
        ]

    def _forget(self) -> None:
        ended = [known.id for known in self._all.values() if known.over]
        for old in ended[: max(0, len(ended) - _KEPT)]:
            del self._all[old]

    def all(self) -> list[Operation]:
        return list(self._all.values())

    def get(self, untrusted_id: str) -> Operation:
        operation = self._all.get(untrusted_id)
        if operation is None:
            raise NotFoundError("There is no such job (any more).", next="See what there is:  twofold jobs list")
        return operation

    async def settle(self, seconds: float) -> None:
        """Wait for what is under way, at most `seconds`; then cancel it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
