"""`make bench-resume`: from the request to a usable desktop, and from the request to a suspended one's live screen and agent.

The desktop is usable once its panel's clock is on the X server's pixels; a resumed screen is live once the clock that a probe in
the guest draws was seen to move.
"""

from __future__ import annotations

import sys
import time

from bench.report import report, row
from bench.setting import Setting, checked_out
from demo.desk import Desk
from demo.headless import Person
from demo.stage import WORKSPACE

BOOTS, RESUMES = 3, 8


def main() -> int:
    boots: list[float] = []
    frames: list[float] = []
    agents: list[float] = []
    suspends: list[float] = []
    with checked_out("resume") as here, Desk(here.stage, here.home / "pictures", 1280, 800, phone=False) as desk:
        story = Person(here.stage, desk, here.client)
        desk.open_editor()
        desk.open_switcher()
        for number in range(BOOTS):
            if number:
                here.client.finish("off", workspace=WORKSPACE)
                desk.switch()
                desk.wait_said("shown", False, 5)
                time.sleep(0.5)
            story.boot()
            boots.append(here.stage.times["boot_to_desktop"])
        story.launch_probe()
        desk.wait_still(20)
        for _ in range(RESUMES):
            time.sleep(2)
            began = time.monotonic()
            here.client.finish("suspend", workspace=WORKSPACE)
            suspends.append(time.monotonic() - began)
            time.sleep(1)
            frame, agent = _resume(here, desk)
            frames.append(frame)
            agents.append(agent)
        accelerator = here.info("accelerator")
    rows = [
        row("start to a usable desktop", "s", boots, {}, at_most=15),
        row("resume to the live frame", "s", frames, {}, at_most=0.5),
        row("resume to an answering agent", "s", agents, {}, at_most=1.0),
        row("suspend, sealed and durable", "s", suspends, {}),
    ]
    notes = [f"accelerator: {accelerator}; Work in front on Xvfb 1280x800, seen on its pixels; caches warm."]
    sys.stdout.write(f"written to {report('resume', rows, notes)}\n")
    return 0


def _resume(here: Setting, desk: Desk) -> tuple[float, float]:
    """Seconds to the first frame that the guest drew since, and to the answer to a question put to its agent."""
    first = None  # perhaps of the picture that was kept
    began = time.monotonic()
    job = here.client.call("start", workspace=WORKSPACE)
    while (now := desk.reading()) is None or first is None or now.clock == first:
        first = now.clock if now and first is None else first
        if time.monotonic() > began + 30:
            raise TimeoutError("the screen never came to life")
        time.sleep(0.002)
    frame = time.monotonic() - began
    for _ in here.client.follow(job):
        pass
    here.client.call("time", workspace=WORKSPACE)
    return frame, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
