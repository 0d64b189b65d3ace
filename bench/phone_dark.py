"""The power key of the emulated phone, where the policy wants Work shut in the dark."""

from __future__ import annotations

import time

from bench.phone_setting import EMULATED, Bench
from bench.report import OUT, row
from phone.handset import POWER, differing
from phone.person import at_home, in_work

_PATIENCE = 120.0


def dark(bench: Bench) -> None:
    """Photographs lie beside the figures."""
    phone, me = bench.phone, bench.me
    shuts, backs = [], []
    for _ in range(bench.rounds.darks):
        if not in_work(phone.photograph()):
            me.to_work(swipe=True)
        me.still(60)
        work = phone.photograph()
        phone.keep(OUT / "phone-before-dark.png")
        shuts.append(_press(bench, "suspended"))
        assert not phone.look("pgrep -f '[t]wofold-vaultd' || true"), "its keys are still there"
        phone.keep(OUT / "phone-dark.png")
        backs.append(_press(bench, "running"))
        phone.until(lambda now: at_home(now) or in_work(now), 60, "light")
        if not in_work(phone.photograph()):
            me.to_work(swipe=True)
        phone.until(lambda now: differing(work[94:1080], now[94:1080]) < 0.02, 60, "Work as it was")  # noqa: B023
        phone.keep(OUT / "phone-light.png")
    me.to_personal(swipe=True)
    bench.rows += [
        row(EMULATED + "power key to suspended and without keys (by policy)", "s", shuts, {}),
        row(EMULATED + "power key to running again", "s", backs, {}),
    ]


def _press(bench: Bench, wanted: str) -> float:
    """Seconds from the power key to that state."""
    began = time.monotonic()
    bench.phone.press(POWER)
    while (run := bench.ask("info", what="run")) != wanted:
        if time.monotonic() > began + _PATIENCE:
            raise TimeoutError(f"it is {run}, not {wanted}")
        time.sleep(0.1)
    return time.monotonic() - began
