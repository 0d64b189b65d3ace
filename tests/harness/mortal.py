"""A program of ours with a hand on its steps: at each it says where it is, and goes on when the hand lets it. What happens there
meanwhile (it is killed, the network is cut, the disk is full) is the harness's to choose.

`python -m tests.harness.mortal SOCKET agent` is the agent, `… SOCKET server HOME PORT [FUNCTION]…` a server in one process.
A FUNCTION is `module:name`: a step after it has done its work, or before it with a `-` at the end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import importlib
import re
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Say = Callable[..., str | None]
_LONG = re.compile(r"\b[0-9a-f]{16,}\b(\.\w+)?")
_NUMBER = re.compile(r"(?<=/)\d+(?=/|$)")
_SEALED = re.compile(r"\b[sp]-[0-9a-f]{16}\b")


class Hand:
    """The harness's end. `steps` are those met since `begin`, each with how often it has been met by then: `name #2`."""

    def __init__(self, path: Path, without: str = r"$^") -> None:
        self.path, self._without = path, re.compile(without)
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(str(path))
        self._listening.listen(64)
        self._lock = threading.Lock()
        self.striking, self.struck = threading.Event(), threading.Event()
        self.failed: list[BaseException] = []
        self.begin()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()

    def begin(
        self, at: str = "", act: Callable[[], None] = lambda: None, see: Callable[[str], None] | None = None
    ) -> None:
        """Count anew; at the step `at` do `act`, once. `see` hears of every step."""
        with self._lock:
            self.steps: list[str] = []
            self._count: Counter[str] = Counter()
            self._at, self._act, self._see = at, act, see
            self.striking.clear()
            self.struck.clear()
            self.failed.clear()

    def wait(self) -> bool:
        """Whether it came to the step; then what is done there is done."""
        return self.striking.is_set() and self.struck.wait(60)

    def without(self, pattern: str) -> None:
        """Steps that are none."""
        self._without = re.compile(pattern)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listening.accept()
                threading.Thread(target=self._meet, args=(stream,), daemon=True).start()

    def _meet(self, stream: socket.socket) -> None:
        with contextlib.closing(stream), contextlib.suppress(OSError):
            name = stream.recv(1000).decode()
            if name and not self._without.search(name):
                self._step(name)
            stream.sendall(b".")

    def _step(self, name: str) -> None:
        with self._lock:
            self._count[name] += 1
            step = f"{name} #{self._count[name]}"
            self.steps.append(step)
            strikes = step == self._at and not self.striking.is_set()
            if strikes:
                self.striking.set()
            if self._see is not None:
                self._see(step)
        if strikes:
            try:
                self._act()
            except BaseException as failed:  # noqa: BLE001 - told to the test, in whose thread it belongs
                self.failed.append(failed)
            self.struck.set()


class Finger:
    """The program's end."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, step: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.connect(self._path)
            stream.sendall(step.encode()[:1000])
            stream.recv(1)  # nothing comes where it is killed

    def before(self, where: str, say: Say) -> None:
        """Tell before each call of a function; `say` gets its arguments and answers the step's name, or None for none."""

        def told(real: Any, *a: Any, **k: Any) -> Any:
            step = say(*a, **k)
            if step is not None:
                self(_plain(step))
            return real(*a, **k)

        _replace(where, told)

    def after(self, where: str, step: str) -> None:
        def told(real: Any, *a: Any, **k: Any) -> Any:
            done = real(*a, **k)
            self(step)
            return done

        _replace(where, told)


def _plain(step: str) -> str:
    """Without what differs from run to run."""
    return _NUMBER.sub("N", _LONG.sub("*", _SEALED.sub("*", step.partition("?")[0])))


def _replace(where: str, told: Callable[..., Any]) -> None:
    """Put `told` in a function's place, wherever a module of ours has it already."""
    module, _, name = where.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = getattr(owner, last)

    @functools.wraps(real)
    def fresh(*a: Any, **k: Any) -> Any:
        return told(real, *a, **k)

    setattr(owner, last, fresh)
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").startswith("twofold.") and getattr(other, last, None) is real:
            setattr(other, last, fresh)


_verb = threading.local()


def _call(_: Any, verb: str, *__: Any, **___: Any) -> str:
    _verb.now = verb
    return f"vaultd: ask {verb}"


def _progress(operation: Any, step: str, *_: Any) -> str | None:
    return f"progress: {step}" if step != operation.step else None


# The agent's durable writes, its calls of the server and of the vault process, and what its operations say of themselves.
AGENT: dict[str, Say] = {
    "twofold.agent.store:write_durably": lambda path, _: f"write {path.name}",
    "twofold.agent.store:Store.create": lambda *_: "make the folder",
    "twofold.agent.store:Store.destroy": lambda *_: "remove the folder",
    "twofold.agent.store:Store.destroy_key": lambda *_: "destroy the key",
    "twofold.agent.remote:Remote.send": lambda _, method, what, *__, **___: f"server: {method} {what}",
    "twofold.agent.remote:Remote.stream": lambda _, what, *__: f"server: PUT {what}",
    "twofold.agent.operations:Operation.progress": _progress,
    "twofold.agent.operations:Operation.commit": lambda *_: "no way back",
    "twofold.agent.arrival:_fresh": lambda *_: "take a new key epoch",
    "twofold.vault.control:Conversation.call": _call,
    "twofold.vault.control:Conversation._answer": lambda *_: f"vaultd: at {getattr(_verb, 'now', '')}",
    "twofold.vault.copies:Folder.write": lambda _, name, __: f"carried: write {name}",
    "twofold.vault.copies:Folder.put": lambda _, file, *__: f"carried: copy {file.name}",
    "twofold.vault.store:SealedVault.destroy": lambda *_: "remove the vault",
    "twofold.agent.registry:Registry.drop": lambda *_: "drop it from the list",
}


def _agent(finger: Finger) -> int:
    from twofold.platform import run

    # A program that we start gets a short environment; what records its writes is meant for it too.
    passed = ("LD_PRELOAD", "TWOFOLD_TAPE", "TWOFOLD_TAPE_BELOW", "TWOFOLD_TAPE_FULL")
    run._KEEP = (*run._KEEP, *passed)  # type: ignore[assignment]
    for where, say in AGENT.items():
        finger.before(where, say)
    from twofold.agent.__main__ import main

    return main([])


def _server(finger: Finger, home: str, port: str, functions: Sequence[str]) -> int:
    import asyncio

    from granian.constants import Interfaces
    from granian.server.embed import Server

    from twofold.server.run import worker

    for where in functions:
        if where.endswith("-"):
            finger.before(where[:-1], lambda *_, where=where, **__: where)
        else:
            finger.after(where, where)
    if not functions:
        finger.after("twofold.server.objects:Folder.put", "server: kept a file")
        finger.before("twofold.server.audit:record", lambda _, __, what, *___: f"server: about to commit, {what}")
    app = worker(home)
    told = app if functions else _requests(finger, app)
    server = Server(
        told, address="127.0.0.1", port=int(port), interface=Interfaces.ASGI, log_enabled=False, websockets=False,
        ssl_cert=Path(home) / "tls.crt", ssl_key=Path(home) / "tls.key",
    )  # fmt: skip
    asyncio.run(server.serve())
    return 0


def _requests(finger: Finger, app: Any) -> Any:
    """Each request as it has come, and as its answer is about to go: by then all that it did is committed."""

    async def told(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        what = f"{scope['method']} {scope['path'].removeprefix('/api/v1/')}"
        finger(_plain(f"server: asked {what}"))

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                finger(_plain(f"server: answers {what}"))
            await send(message)

        await app(scope, receive, answer)

    return told


def main(words: Sequence[str]) -> int:
    path, program, *rest = words
    faulthandler.register(signal.SIGUSR1)  # where every thread is, on standard error
    finger = Finger(path)
    if program == "agent":
        return _agent(finger)
    home, port, *functions = rest
    return _server(finger, home, port, functions)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
