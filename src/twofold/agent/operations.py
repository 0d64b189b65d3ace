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

from twofold.agent.journal import Journal
from twofold.agent.store import no_room
from twofold.model.errors import ConflictError, NotFoundError, TwofoldError, from_wire

log = logging.getLogger(__name__)
_KEPT = 100  # ended operations that can still be asked for
TRANSFER = "transfer"  # the lane of what goes to and from the server beside other work
AT_ONCE = "order"  # the lane of what the company wants at once: it waits for nobody
_TELL_EVERY = 0.1  # seconds between two events about the same step
_LOOK = 0.1  # seconds between two looks of a thread whose work is paused
# What can be paused, and in which of its steps: while bytes travel, and never while others wait for what it holds.
_PAUSABLE = ("checkout", "backup", "upgrade", "disk_import")
_TRAVELS = ("fetch", "sending", "bringing", "waiting", "copying")
PAUSED = "paused"
UNDER_WAY = ("queued", "running", PAUSED)
_T = TypeVar("_T")

Listener = Callable[["Operation"], None]
Work = Callable[["Operation"], Awaitable[dict[str, Any]]]


class CancelledByPersonError(TwofoldError):
    """Raised inside the work when its operation was cancelled; the work's exit stack then undoes what was done."""

    code = "cancelled"


class AgentEndsError(TwofoldError):
    """Raised inside paused work when its agent ends; the next one goes on with it."""

    code = "unreachable"


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
        self._held = threading.Event()
        self._left = threading.Event()
        self._released = asyncio.Event()
        self._released.set()
        self._thread = threading.get_ident()
        self._committed = ""
        self.place: Callable[[Operation], int] = lambda _: 0
        self.former = False  # a former agent's
        self.orphan = False  # under way when a former agent ended, and not taken up again yet

    def to_wire(self) -> dict[str, Any]:
        """`OPERATION` in docs/protocol.md."""
        return {
            "operation": self.id, "verb": self.verb, "workspace": self.workspace, "state": self.state, "lane": self.lane,
            "place": self.place(self), "step": self.step, "done": self.done, "total": self.total, "whole": self.whole,
            "rate": self.rate, "left": self.left, "started": self.started, "ended": self.ended,
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
        if self._held.is_set() and step.startswith(_TRAVELS) and threading.get_ident() != self._thread:
            self._rest()
        changed = step != self.step
        if changed or done < self.done:
            self._begun = time.monotonic(), done
        self.step, self.done, self.total = step, done, total
        now = time.monotonic()
        if changed or done == total or now - self._told >= _TELL_EVERY:
            self._told = now
            self._loop.call_soon_threadsafe(self._tell, self)

    def _rest(self) -> None:
        while self._held.is_set():
            self.check()
            if self._left.is_set():
                raise AgentEndsError("The agent ended while this was paused.")
            time.sleep(_LOOK)
        self._begun = time.monotonic(), self.done

    def pause(self) -> None:
        """Let nothing more travel until `resume`; what has come or gone stays. Doing it twice is doing it once.

        Raises:
            ConflictError: it is none of those that can stand still.
        """
        if self.over or self.state == PAUSED:
            return
        if self.verb not in _PAUSABLE or self._committed:
            raise ConflictError(
                self._committed or "Only work that sends or fetches can be paused.",
                safe="It goes on.",
                next="It can be cancelled:  twofold jobs cancel" if not self._committed else "",
            )
        self.state = PAUSED
        self._released.clear()
        self._held.set()
        self._tell(self)

    def resume(self) -> None:
        if self.state != PAUSED:
            return
        self.state = "running" if self.started and not self.orphan else "queued"
        self._held.clear()
        self._released.set()
        self._tell(self)

    def leave(self) -> None:
        """Its agent ends: a thread that stands still in it must not hold that up."""
        self._left.set()

    async def go(self) -> None:
        """Until it is not paused, or cancelled."""
        while self._held.is_set() and not self._stop.is_set():
            waits = [asyncio.ensure_future(each.wait()) for each in (self._released, self._stopped)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in waits:
                each.cancel()

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

    @property
    def cancelled(self) -> bool:
        return self._stop.is_set()

    def is_(self, verb: str, workspace: str, args: Mapping[str, Any] | None = None) -> bool:
        """Whether it is this work; without `args`, of whatever kind."""
        return (self.verb, self.workspace) == (verb, workspace) and args in (None, self.args)

    def remember(self, row: Mapping[str, Any]) -> None:
        """Be what a former agent wrote down."""
        self.id, self.state, self.step = row["operation"], row["state"], row["step"]
        self.done, self.total, self.whole = row["done"], row["total"], row["whole"]
        self.started, self.ended, self.result = row["started"], row["ended"], row["result"]
        self.error = None if row["error"] is None else from_wire(row["error"])
        self._begun, self.former = (time.monotonic(), self.done), True
        self.orphan = self.state in UNDER_WAY
        if self.orphan and self.state != PAUSED:
            self.state = "queued"
        if not self.orphan:
            self._ended.set()

    def adopt(self, args: Mapping[str, Any]) -> None:
        """It is gone on with, paused where it was; new work is as it is."""
        self.args, self.former, self.orphan = dict(args), False, False
        if self.state == PAUSED:
            self._released.clear()
            self._held.set()

    def cancel(self) -> None:
        if self.over:
            return
        if self._committed:
            raise ConflictError(self._committed, safe="Nothing was changed.", next="Let it end; it will not take long.")
        self._stop.set()
        self._stopped.set()
        if self.orphan:
            self.cut(CancelledByPersonError("This was cancelled.", safe="What was sent or fetched stays where it is."))

    def cut(self, why: TwofoldError | None = None) -> None:
        """It ended with its agent, and nothing goes on with it."""
        gone = TwofoldError(
            "The agent ended while this was under way.", safe="What can be gone on with is kept.", next="Do it again."
        )
        self.state, self.error = ("failed", gone) if why is None else ("cancelled", why)
        self.orphan, self.ended = False, int(time.time())
        self._ended.set()
        self._tell(self)

    async def wait(self, seconds: float | None) -> None:
        """Until it has ended or `seconds` have passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            pass  # the caller looks at `state`

    async def run(self, work: Work) -> None:
        if not self._stop.is_set():
            self.state, self.started = "running", self.started or int(time.time())
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

    def __init__(self, tell: Listener, journal: Journal | None = None) -> None:
        self._listener, self._journal = tell, journal or Journal(None)
        self._states: dict[str, str] = {}
        self._all: OrderedDict[str, Operation] = OrderedDict()
        self._queues: dict[tuple[str, str], asyncio.Lock] = {}
        self._tasks: dict[asyncio.Task[None], Operation] = {}

    def submit(self, verb: str, workspace: str, args: Mapping[str, Any], work: Work, lane: str = "") -> Operation:
        """Queue `work`, or return the operation that does the same already and has not ended. Work of another `lane` of the same
        workspace may run beside it, and takes its `turn` where it must not."""
        for known in self._all.values():
            if (known.over, known.orphan) == (False, False) and known.is_(verb, workspace, args):
                return known
        former = next((each for each in self._all.values() if each.orphan and each.is_(verb, workspace)), None)
        operation = former or Operation(verb, workspace, args, self._tell, lane)
        operation.adopt(args)
        operation.place = self._place
        self._all[operation.id] = operation
        self._forget()
        task = asyncio.get_running_loop().create_task(self._run(operation, work, lane), name=f"{verb} {workspace}")
        self._tasks[task] = operation
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        self._tell(operation)
        return operation

    def turn(self, workspace: str, lane: str = "") -> asyncio.Lock:
        """While it is held nothing else of this lane runs. Who needs two takes the one of "" last."""
        return self._queues.setdefault((workspace, lane), asyncio.Lock())

    async def _run(self, operation: Operation, work: Work, lane: str) -> None:
        while not operation.over:
            await operation.go()
            async with self.turn(operation.workspace, lane):
                if operation.state != PAUSED or operation.cancelled:  # it may have been paused while it waited
                    await operation.run(work)

    def _tell(self, operation: Operation) -> None:
        self._listener(operation)
        if self._states.get(operation.id) != operation.state:
            self._states[operation.id] = operation.state
            self._journal.write(each.to_wire() for each in self._all.values())

    def _place(self, operation: Operation) -> int:
        """How many of its queue come before it; 0 also for what is over."""
        queue = [] if operation.over else self.under_way(operation.workspace, operation.lane)
        return queue.index(operation) if operation in queue else 0

    def restore(self, goes_on: Callable[[Operation], bool]) -> None:
        """List what a former agent's operations came to. What was under way and `goes_on` by itself is known by the same id when
        it does; the rest has ended."""
        for row in self._journal.read():
            operation = Operation(row["verb"], row["workspace"], {}, self._tell, row["lane"])
            operation.remember(row)
            operation.place = self._place
            self._all[operation.id], self._states[operation.id] = operation, operation.state
            if not operation.over and not goes_on(operation):
                operation.cut()
        self._forget()

    def under_way(self, workspace: str, lane: str) -> list[Operation]:
        """What of a lane has not ended, the running one first."""
        mine = (each for each in self._all.values() if (each.workspace, each.lane) == (workspace, lane))
        return [each for each in mine if not each.over and not each.orphan]

    def _forget(self) -> None:
        ended = [known.id for known in self._all.values() if known.over]
        for old in ended[: max(0, len(ended) - _KEPT)]:
            del self._all[old]
            self._states.pop(old, None)

    def all(self) -> list[Operation]:
        return list(self._all.values())

    def get(self, untrusted_id: str) -> Operation:
        operation = self._all.get(untrusted_id)
        if operation is None:
            raise NotFoundError("There is no such job (any more).", next="See what there is:  twofold jobs list")
        return operation

    async def settle(self, seconds: float) -> None:
        """Wait for what is under way, at most `seconds`; then cancel it. For the next agent it is what was cut off."""
        working = [task for task, operation in self._tasks.items() if operation.state != PAUSED]
        if working:
            await asyncio.wait(working, timeout=seconds)
        self._journal = Journal(None)
        for operation in self._tasks.values():
            operation.leave()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
