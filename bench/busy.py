"""`make bench-busy`: an application's launch in the guest on an idle and on a busy host system, with our measures and without.

The measures are the control groups of QEMU, the vault, the agent and the switcher (twofold.platform.cgroup); without them is
the same with TWOFOLD_NO_SHARE=1. From the request to the guest's word that the window is there, by the host's clock.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from bench.bloat import KINDS, Bloat
from bench.report import report, row
from bench.setting import Setting, checked_out
from demo.stage import WORKSPACE
from twofold.agent.client import Client, Watch
from twofold.display.machine import Display
from twofold.model.errors import UnreachableError
from twofold.platform import cgroup

APP = "galculator"
PASSES, ROUNDS, WARM_UP = 1, 5, 5
LOADS: dict[str, tuple[str, ...]] = {"idle": (), **{kind: (kind,) for kind in KINDS}, "all": tuple(KINDS)}
_LEFT_ALT, _F4 = 56, 62  # linux/input-event-codes.h
_PATIENCE = 60.0

Samples = dict[str, list[float]]


def main() -> int:
    ours: Samples = {load: [] for load in LOADS}
    theirs: Samples = {load: [] for load in LOADS}
    share = ""
    with checked_out("busy") as here:
        for number in range(PASSES):
            for measures, samples in ((True, ours), (False, theirs)):
                here.console.print(f"pass {number + 1} of {PASSES}, {'with' if measures else 'without'} our measures")
                with _agent(here, measures=measures) as client:
                    client.finish("start", workspace=WORKSPACE)
                    here.wait("session_up")
                    share = share or _share(client)
                    accelerator = here.info("accelerator")
                    _measure(client, samples)
    rows = [
        row(
            f"launch, host {load}" if load == "idle" else f"launch, host busy: {load}",
            "ms",
            ours[load],
            {"idle": ours["idle"], "without our measures": theirs[load]},
            at_most=None if load == "idle" else 1.3,
        )
        for load in LOADS
    ]
    notes = [
        f"accelerator: {accelerator}; {APP}, with its screen watched; the ratio is to the idle host system.",
        share,
        *(f"{kind}: {(work.__doc__ or '').splitlines()[0]}" for kind, work in KINDS.items()),
    ]
    sys.stdout.write(f"written to {report('busy', rows, notes)}\n")
    return 0


class _agent:  # noqa: N801 - reads as what it gives
    """A fresh agent, with our measures or without; at the end what runs is suspended, and the agent quits."""

    def __init__(self, here: Setting, *, measures: bool) -> None:
        self._here = here
        here.stage.environment[cgroup.SWITCH] = "0" if measures else "1"

    def __enter__(self) -> Client:
        self._quit()
        self._here.client = self._here.stage.agent()
        return self._here.client

    def __exit__(self, *_: object) -> None:
        self._quit()

    def _quit(self) -> None:
        self._here.stage.quit()
        try:
            while True:
                Client().close()
                time.sleep(0.05)
        except UnreachableError:
            return


def _share(client: Client) -> str:
    checks = client.call("doctor")["checks"]
    return next((str(check["detail"]) for check in checks if check["name"].startswith("processor share")), "")


def _measure(client: Client, samples: Samples) -> None:
    with ExitStack() as stack:
        watch = stack.enter_context(Watch())
        screen = Display(client.display(WORKSPACE), changed=lambda: None, ended=lambda error: None, sound=False)
        stack.callback(screen.close)
        screen.watch(True)
        for _ in range(WARM_UP):
            _launch(client, watch, screen)
        # Loads in turn, not one after another: a guest gets quicker for minutes after its start, as its code is translated.
        for _ in range(ROUNDS):
            for load, kinds in LOADS.items():
                with Bloat(kinds):
                    time.sleep(0.5)
                    samples[load].append(_launch(client, watch, screen) * 1000)


def _launch(client: Client, watch: Watch, screen: Display) -> float:
    """Seconds until the application's window; then close it by its keys, as a person would, and wait until it is gone."""
    watch.ready()
    began = time.monotonic()
    token = client.call("launch", workspace=WORKSPACE, app=APP)["launch"]
    while event := watch.one(began + _PATIENCE):
        if event.get("event") in ("window", "gone") and event.get("launch") == token:
            break
    took = time.monotonic() - began
    if event is None or event["event"] != "window":
        raise TimeoutError(f"{APP} never showed its window: {event}")
    deadline, pressed = time.monotonic() + _PATIENCE, 0.0
    while _open(client):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{APP} does not close")
        if time.monotonic() - pressed > 3:
            pressed = time.monotonic()
            for code, down in ((_LEFT_ALT, True), (_F4, True), (_F4, False), (_LEFT_ALT, False)):
                screen.key(code, down)
        time.sleep(0.1)
    time.sleep(0.3)
    return took


def _open(client: Client) -> bool:
    windows = client.call("windows", workspace=WORKSPACE)["windows"]
    return any(window.get("app") == APP for window in windows)


if __name__ == "__main__":
    sys.exit(main())
