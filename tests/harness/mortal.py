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
import inspect
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
        """Tell before each call of a function; `say` gets those of its arguments that it names, and answers the step, or None."""

        def told(real: Any, named: Callable[..., dict[str, Any]], *a: Any, **k: Any) -> Any:
            self._tell(say(**named(*a, **k)))
            return real(*a, **k)

        _replace(where, say, told)

    def after(self, where: str, say: Say) -> None:
        """The same once it has done its work."""

        def told(real: Any, named: Callable[..., dict[str, Any]], *a: Any, **k: Any) -> Any:
            done = real(*a, **k)
            self._tell(say(**named(*a, **k)))
            return done

        _replace(where, say, told)

    def _tell(self, step: str | None) -> None:
        if step is not None:
            self(_plain(step))


def _saying(step: str) -> Say:
    return lambda: step


def _plain(step: str) -> str:
    """Without what differs from run to run."""
    return _NUMBER.sub("N", _LONG.sub("*", _SEALED.sub("*", step.partition("?")[0])))


def found(where: str, say: Say) -> tuple[Any, str, Any]:
    """The owner, the name and the function that a mark means.

    Raises:
        AttributeError, ModuleNotFoundError: there is none. TypeError: it has no argument of a name that `say` asks for.
    """
    module, _, name = where.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real = getattr(owner, last)
    if lacking := set(inspect.signature(say).parameters) - set(inspect.signature(real).parameters):
        raise TypeError(f"{where} takes no {', '.join(sorted(lacking))}")
    return owner, last, real


def _replace(where: str, say: Say, told: Callable[..., Any]) -> None:
    """Put `told` in a function's place, wherever a module of ours has it already."""
    owner, last, real = found(where, say)
    wanted, takes = list(inspect.signature(say).parameters), inspect.signature(real)

    def named(*a: Any, **k: Any) -> dict[str, Any]:
        given = takes.bind(*a, **k).arguments
        return {name: given[name] for name in wanted}

    @functools.wraps(real)
    def fresh(*a: Any, **k: Any) -> Any:
        return told(real, named, *a, **k)

    setattr(owner, last, fresh)
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").startswith("twofold.") and getattr(other, last, None) is real:
            setattr(other, last, fresh)


_verb = threading.local()


def _asked(verb: str) -> str:
    _verb.now = verb
    return f"vaultd: ask {verb}"


def _sent() -> str | None:
    """Nothing else that goes out has just been asked for in this thread."""
    verb: str | None = _verb.__dict__.pop("now", None)
    return f"vaultd: at {verb}" if verb else None


def _progress(self: Any, step: str) -> str | None:
    return f"progress: {step}" if step != self.step else None


def _impatient(self: Any) -> None:
    """A server that was away is tried again soon: what the company asks for would take a minute in each cell."""
    self.retry = 2.0


# The steps are marked by functions that are there for all to see: the agent's durable writes, its calls of the server and of the
# vault process, and what its operations say of themselves. tests/unit/test_mortal.py holds that each is there.
AGENT: dict[str, Say] = {
    "twofold.agent.store:write_durably": lambda path: f"write {path.name}",
    "twofold.agent.store:Store.create": lambda: "make the folder",
    "twofold.agent.store:Store.destroy": lambda: "remove the folder",
    "twofold.agent.store:Store.destroy_key": lambda: "destroy the key",
    "twofold.agent.remote:Remote.send": lambda method, what: f"server: {method} {what}",
    "twofold.agent.remote:Remote.stream": lambda what: f"server: PUT {what}",
    "twofold.agent.operations:Operation.progress": _progress,
    "twofold.agent.operations:Operation.commit": lambda: "no way back",
    "twofold.vault.control:Conversation.call": _asked,
    "twofold.vault.copies:Folder.write": lambda name: f"carried: write {name}",
    "twofold.vault.copies:Folder.put": lambda file: f"carried: copy {file.name}",
    "twofold.vault.store:SealedVault.destroy": lambda: "remove the vault",
    "twofold.agent.registry:Registry.drop": lambda: "drop it from the list",
    "twofold.agent.supervision:Supervision.run": _impatient,
}
AGENT_AFTER: dict[str, Say] = {"twofold.platform.peers:send_fds": _sent}
SERVER: dict[str, Say] = {"twofold.server.audit:record": lambda action: f"server: about to commit, {action}"}
SERVER_AFTER: dict[str, Say] = {"twofold.server.objects:Folder.put": lambda: "server: kept a file"}
# What each of the programs imports: a mold has it already (mold.py).
AGENT_MODULES = ("twofold.agent.__main__", *sorted({where.partition(":")[0] for where in AGENT | AGENT_AFTER}))
SERVER_MODULES = ("twofold.server.run", "twofold.server.app", "granian.server.embed")


def _agent(finger: Finger) -> int:
    from twofold.platform import run

    # A program that we start gets a short environment; what records its writes is meant for it too.
    passed = ("LD_PRELOAD", "TWOFOLD_TAPE", "TWOFOLD_TAPE_BELOW", "TWOFOLD_TAPE_FULL")
    run._KEEP = (*run._KEEP, *passed)  # type: ignore[assignment]
    for where, say in AGENT.items():
        finger.before(where, say)
    for where, say in AGENT_AFTER.items():
        finger.after(where, say)
    from twofold.agent.__main__ import main

    return main([])


def _server(finger: Finger, home: str, port: str, functions: Sequence[str]) -> int:
    import asyncio

    from granian.constants import Interfaces
    from granian.server.embed import Server

    from twofold.server.run import worker

    before = {where[:-1]: _saying(where) for where in functions if where.endswith("-")}
    after = {where: _saying(where) for where in functions if not where.endswith("-")}
    for where, say in (before if functions else SERVER).items():
        finger.before(where, say)
    for where, say in (after if functions else SERVER_AFTER).items():
        finger.after(where, say)
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
