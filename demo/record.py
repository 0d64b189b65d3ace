"""`tools/image`, once for each build: what a first start of the business image reads until its session is up, in that
order, as JSON on standard output.

It is published with the image (`image publish` finds it beside the parts), so that a device that has just checked it out fetches
first what it will wait for (docs/decisions/0007-who-fetches.md). A real server, device and machine, all of them gone afterwards.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from demo.stage import WORKSPACE, Stage
from twofold.model.errors import TwofoldError

_PATIENCE = 180.0  # seconds until the session is up, on a slow and busy machine


def main() -> int:
    console = Console(stderr=True)
    try:
        with tempfile.TemporaryDirectory(prefix="tf-rec-") as home, Stage(Path(home) / "h", console) as stage:
            _, _, client = stage.ready()
            client.finish("start", workspace=WORKSPACE)
            deadline = time.monotonic() + _PATIENCE
            while not client.call("info", workspace=WORKSPACE)["session_up"]:
                if time.monotonic() > deadline:
                    raise TimeoutError("its session never came up")
                time.sleep(0.05)
            read = client.finish("disk_touched", workspace=WORKSPACE)["result"]
            client.finish("off", workspace=WORKSPACE)
    except (TwofoldError, TimeoutError) as failed:
        console.print(f"The image's first start could not be recorded: {failed}")
        return 1
    sys.stdout.write(json.dumps(read) + "\n")
    console.print(f"  {sum(length for _, _, length in read['ranges']) / 1e6:.0f} MB are read by a first start.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
