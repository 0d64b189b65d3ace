"""A new laptop for a lost one: check-out of a workspace with much of its user's on the server, to a usable desktop."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from bench.checkout_desktop import DELAY, RATE, WORK, Stage, _up, stage
from bench.checkout_kit import MIB, edit_user_disk, tell
from bench.report import Row, row
from tests.harness.company import Device as Home

NOTES: list[str] = []


def reenrol(folder: Path, rounds: int, amount: int) -> list[Row]:
    NOTES[:] = [
        (
            f"re-enrol: a file of {amount >> 20} MiB that does not compress is on the user's disk; backed up, given up by the "
            f"first device, checked out by another, {RATE} Mbit/s and {DELAY} ms."
        )
    ]
    again: list[float] = []
    with stage(folder, 2 * rounds + 1) as here:
        fresh = [_fresh(here, f"fresh{number}") for number in range(rounds)]
        names = [f"new{number}" for number in range(rounds)]
        keys = [_prepared(here, name) for name in names]
        with here.device("old") as (home, client):
            here.enrol(client)
            client.finish("checkout", workspace=WORK, limit=300)
            _fill(home, folder, amount)
            for key in keys:
                client.finish("backup", workspace=WORK, key=key, limit=900)
            client.finish("discard", workspace=WORK, yes=True)
        for name in names:
            with here.device(name) as (home, client):
                here.link.shape(RATE, DELAY)
                began = time.monotonic()
                result = client.finish("checkout", workspace=WORK, limit=900)["result"]
                checked = time.monotonic() - began
                again.append(_up(client, began))
                here.link.shape(0, 0)
                tell(f"re-enrol: {again[-1]:.1f} s ({checked:.1f} of them the check-out): {result}")
                client.finish("off", workspace=WORK, limit=60)
                client.finish("discard", workspace=WORK, yes=True)
            shutil.rmtree(home.home)
    what = f"re-enrol with {amount >> 20} MiB of user data to a usable desktop"
    return [row(f"{what}, against a fresh check-out", "s", again, {"fresh": fresh}, at_most=1.3)]


def _fresh(here: Stage, name: str) -> float:
    with here.device(name) as (home, client):
        here.enrol(client)
        here.link.shape(RATE, DELAY)
        began = time.monotonic()
        client.finish("checkout", workspace=WORK, limit=300)
        took = _up(client, began)
        here.link.shape(0, 0)
        client.finish("off", workspace=WORK, limit=60)
        client.finish("discard", workspace=WORK, yes=True)
    shutil.rmtree(home.home)
    tell(f"re-enrol: a fresh check-out {took:.1f} s")
    return took


def _prepared(here: Stage, name: str) -> str:
    """An enrolled device that has nothing yet; returns its wrapping key."""
    with here.device(name) as (_, client):
        here.enrol(client)
        return str(client.call("device")["key"])


def _fill(home: Home, folder: Path, amount: int) -> None:
    """Put a file of random bytes on the user's disk, which nothing runs on."""
    data = folder / "data"
    with data.open("wb") as file:
        for _ in range(amount // MIB):
            file.write(os.urandom(MIB))
    edit_user_disk(home.dirs, WORK, folder, [f"write {data} /bench"])
    data.unlink()
