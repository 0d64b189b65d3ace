"""The agent, seen from Qt: calls on a thread of their own, events as signals, and the way back when it was away."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QSocketNotifier, Qt, QTimer, Signal

from twofold.model.errors import ConflictError, TwofoldError, UnreachableError
from twofold.switcher.ports import Agent, Dial, Events, Socket

Answer = Callable[[Any], None]
Failure = Callable[[TwofoldError], None]
_Job = tuple[str, dict[str, Any], Answer, Failure]


_ENDING = 3.0  # seconds in which a switcher that was open before may still be on its way out


def _ignore(_: object) -> None:
    return


class Link(QObject):
    """`heard` carries events; `here` tells whether the agent answers; `refused` that it serves another switcher.

    Callbacks run on the GUI's thread.
    """

    heard = Signal(object)
    here = Signal(bool)
    refused = Signal(object)
    _done = Signal(object, object)

    def __init__(self, path: Path, dial: Dial | None = None) -> None:
        super().__init__()
        self._path, self._dial = path, dial or Socket()
        self._events: Events | None = None
        self._notifier: QSocketNotifier | None = None
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._done.connect(lambda then, value: then(value), Qt.ConnectionType.QueuedConnection)
        self._again = QTimer(self, interval=500)
        self._again.timeout.connect(self._watch)
        self._front: str | None = None  # what the agent was told that the person sees
        self._began = 0.0
        self._thread = threading.Thread(target=self._work, name="agent", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._began = time.monotonic()
        self._watch()

    def close(self) -> None:
        self._again.stop()
        self._jobs.put(None)
        self._drop()

    def ask(self, verb: str, then: Answer = _ignore, failed: Failure = _ignore, **args: Any) -> None:
        self._jobs.put((verb, args, then, failed))

    def look(self, workspace: str) -> None:
        """The person has this workspace in front of them, or none. The agent hears of a change at once, whatever else is being
        asked, and nobody waits for an answer: it lets what nobody sees stand still."""
        if self._events is not None and workspace != self._front:
            self._front = workspace
            try:
                self._events.say("looking", workspace=workspace)
            except TwofoldError:
                pass  # it has gone; the next one is told

    def _watch(self) -> None:
        try:
            self._events = self._dial.events(self._path)
        except TwofoldError as refused:
            if isinstance(refused, ConflictError) and time.monotonic() > self._began + _ENDING:
                self.refused.emit(refused)
            self._again.start()
            self.here.emit(False)
            return
        self._again.stop()
        self._front = None
        self._notifier = QSocketNotifier(self._events.fileno(), QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(self._read)
        self.here.emit(True)

    def _read(self) -> None:
        if self._events is None:
            return
        try:
            for event in self._events.ready():
                self.heard.emit(event)
        except TwofoldError:
            self._drop()
            self._again.start()
            self.here.emit(False)

    def _drop(self) -> None:
        if self._notifier is not None:
            self._notifier.setEnabled(False)
            self._notifier.deleteLater()
            self._notifier = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _work(self) -> None:
        agent: Agent | None = None
        while True:
            going, agent = self._one(agent)
            if not going:
                break
        if agent is not None:
            agent.close()

    def _one(self, agent: Agent | None) -> tuple[bool, Agent | None]:
        """One call. A frame of its own: what was asked may be a secret, and must neither lie here until somebody asks for more
        nor in the traceback of an error that is kept."""
        job = self._jobs.get()
        if job is None:
            return False, agent
        verb, args, then, failed = job
        try:
            agent = agent or self._dial.agent(self._path)
            value = agent.display(args["workspace"]) if verb == "display" else agent.call(verb, **args)
            self._done.emit(then, value)
        except TwofoldError as error:
            if isinstance(error, UnreachableError) and agent is not None:
                agent.close()
                agent = None
            error.__cause__ = error.__context__ = None
            self._done.emit(failed, error.with_traceback(None))
        return True, agent
