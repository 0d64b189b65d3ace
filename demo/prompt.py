"""`make demo` at its terminal: a letter and Return does what a person or the company's administrator may do after a check-out."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from demo.stage import PERSON, TITLE, WORKSPACE, Stage
from twofold.agent.client import Client
from twofold.model.errors import TwofoldError
from twofold.server.client import Admin

HELP = (
    "  Here, with Return:  [bold]b[/] back up   [bold]l[/] lock it, as the company's administrator   [bold]u[/] unlock it   "
    "[bold]d[/] discard what is not backed up   [bold]i[/] check in   [bold]s[/] start it again\n"
)


class Prompt:
    """Reads lines in a thread of its own until the input ends."""

    def __init__(self, stage: Stage, admin: Admin) -> None:
        self._stage, self._admin = stage, admin
        self._words: dict[str, Callable[[Client], str]] = {
            "b": self._back_up, "l": self._lock, "u": self._unlock, "d": self._discard, "i": self._check_in, "s": self._start,
        }  # fmt: skip

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            if (do := self._words.get(line.strip())) is None:
                self._stage.console.print(HELP)
                continue
            began = time.monotonic()
            try:
                with self._stage.client() as client:
                    said = do(client)
            except TwofoldError as error:
                words = "\n    ".join(text for text in (error.happened, error.safe, error.next) if text)
                self._stage.console.print(f"  [red]✗[/] {words}")
                continue
            self._stage.say(said, time.monotonic() - began)

    def _finish(self, client: Client, verb: str, **args: Any) -> dict[str, Any]:
        result: dict[str, Any] = client.finish(verb, workspace=WORKSPACE, **args)["result"]
        return result

    def _back_up(self, client: Client) -> str:
        done = self._finish(client, "backup")
        still = "its file systems stood still for the instant" if done["frozen"] else "it did not run"
        return f"Backed up: {done['sent_bytes'] / 1e6:.1f} MB sent; {still}"

    def _ask(self, verb: str) -> str:
        number = self._admin.find_workspace(PERSON, WORKSPACE)["number"]
        asked = self._admin.ask(number, verb)["command"]
        while True:
            receipt = next(row["receipt"] for row in self._admin.list_asked(number) if row["command"] == asked)
            if receipt is not None:
                return str(receipt["detail"])
            time.sleep(0.05)

    def _lock(self, _: Client) -> str:
        return f"Locked. Its receipt: {self._ask('lock')}"

    def _unlock(self, client: Client) -> str:
        said = self._ask("unlock")
        self._finish(client, "start")
        return f"Unlocked and woken. Its receipt: {said}"

    def _discard(self, client: Client) -> str:
        loss = self._finish(client, "loss")
        if not loss["backed_up"]:
            return "It was never backed up, so nothing is discarded here. First: b"
        self._finish(client, "discard", yes=True)
        self._finish(client, "checkout")
        self._finish(client, "start")
        lost = "what was new" if loss["changed"] is None else f"{loss['changed'] / 1e6:.1f} MB"
        return f"Discarded {lost}; checked out again from the back up, and starting"

    def _check_in(self, client: Client) -> str:
        if client.call("info", workspace=WORKSPACE)["run"] == "suspended":
            self._finish(client, "start")
        self._finish(client, "stop")
        self._finish(client, "checkin")
        return f"{TITLE} is back with the company; its key here is destroyed. Again: s"

    def _start(self, client: Client) -> str:
        if not client.call("list")["workspaces"]:
            self._finish(client, "checkout")
        self._finish(client, "start")
        return "Started"
