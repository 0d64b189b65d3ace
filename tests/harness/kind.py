"""An agent whose guests are of another architecture than this machine, which translates them. `python -m tests.harness.kind
arm64` is what `python -m twofold.agent` would be on such a machine."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from pathlib import Path

from tests.harness.company import Device, Program
from twofold.agent import logs
from twofold.agent.daemon import Agent
from twofold.agent.rooms import Rooms
from twofold.model.image import Arch
from twofold.platform.dirs import dirs


class Other(Device):
    """A device of another kind."""

    def __init__(self, home: Path, arch: Arch) -> None:
        super().__init__(home)
        self.arch = arch

    def _started(self, env: dict[str, str]) -> Program:
        return subprocess.Popen([sys.executable, "-m", "tests.harness.kind", self.arch], env=env)


class OtherRooms(Rooms):
    @functools.cached_property
    def arch(self) -> Arch:
        return Arch(sys.argv[1])


async def _serve() -> None:
    where = dirs()
    logs.to_file(where.state / "agent.log")
    await Agent(where, OtherRooms(where)).run()


if __name__ == "__main__":
    os.umask(0o077)
    asyncio.run(_serve())
