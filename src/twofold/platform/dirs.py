"""Where things lie (XDG Base Directory). `docs/state-directory.md` lists every file in them.

`TWOFOLD_HOME` moves all of them below one folder, which is how tests, the demo and a second install keep apart.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from twofold.model.errors import RefusedError


@dataclass(frozen=True)
class Dirs:
    """`state`: workspaces, device identity. `cache`: sealed chunks, probe answers. `runtime`: sockets; gone at boot."""

    state: Path
    cache: Path
    runtime: Path

    @property
    def agent_socket(self) -> Path:
        return self.runtime / "agent.sock"

    def workspace(self, name: str) -> Path:
        return self.state / "workspaces" / name

    def workspace_runtime(self, name: str) -> Path:
        # A socket's path holds at most 107 bytes (unix(7)); a digest keeps ours short whatever the workspace is called.
        return self.runtime / hashlib.sha256(name.encode()).hexdigest()[:12]


def dirs() -> Dirs:
    """This user's directories, made where missing, each readable by this user alone.

    Raises:
        RefusedError: one exists and belongs to somebody else or is open to others.
    """
    home = Path(os.environ.get("HOME", "/nonexistent"))
    root = os.environ.get("TWOFOLD_HOME")
    if root:
        state, cache = Path(root) / "state", Path(root) / "cache"
        tag = hashlib.sha256(str(Path(root).absolute()).encode()).hexdigest()[:8]
    else:
        state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state") / "twofold"
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "twofold"
        tag = "twofold"
    base = os.environ.get("XDG_RUNTIME_DIR")
    # Without a login session there is no runtime directory; /tmp's sticky bit and the check below keep ours private.
    runtime = Path(base) / tag if base else Path(tempfile.gettempdir()) / f"twofold-{os.getuid()}" / tag
    for folder in dict.fromkeys((runtime.parent, state, cache, runtime) if not base else (state, cache, runtime)):
        private(folder)
    return Dirs(state, cache, runtime)


def private(folder: Path) -> Path:
    """Make `folder` with mode 0700, or check that it is ours and closed to others."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise RefusedError(
            f"{folder} is not a private folder of this user.",
            safe="Nothing was read from it or written to it.",
            next=f"Look at it, then:  chmod 700 {folder}   (or set TWOFOLD_HOME to another folder)",
        )
    return folder
