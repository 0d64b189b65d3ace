"""`python -m twofold.agent [--foreground]`: the command line starts it on demand; a service manager can run it as well."""

from __future__ import annotations

import asyncio
import os
import sys
import threading

from twofold.agent import logs
from twofold.agent.daemon import Agent
from twofold.model.errors import TwofoldError
from twofold.platform import cgroup
from twofold.platform.dirs import Dirs, dirs
from twofold.platform.limits import harden_self
from twofold.platform.memory import few_arenas

USAGE = "usage: python -m twofold.agent [--foreground]\n"


def main(words: list[str]) -> int:
    """Exit codes as in `twofold.model.errors`."""
    if words not in ([], ["--foreground"]):
        sys.stderr.write(USAGE)
        return 2
    os.umask(0o077)
    few_arenas()
    try:
        where = dirs()
        if words:
            logs.to_terminal()
        else:
            logs.to_file(where.state / "agent.log")
        harden_self()
        # On a thread: the kernel may take seconds to move a process between groups, and whoever started us waits.
        threading.Thread(target=cgroup.favour, args=(os.getpid(), "agent"), daemon=True).start()
        asyncio.run(_serve(where))
    except TwofoldError as failed:
        sys.stderr.write(f"{failed}\n")
        return failed.exit_code
    return 0


async def _serve(where: Dirs) -> None:
    await Agent(where).run()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
