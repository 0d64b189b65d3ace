"""The agent's log: one JSON object a line in `state/agent.log`, rotated. It names workspaces, verbs and error kinds, no
secrets, no guest content, nothing of the personal side."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import time
from io import TextIOWrapper
from pathlib import Path

SIZE, KEPT = 1 << 20, 3
FIELDS = ("workspace", "verb", "error", "pid", "workspaces")


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "from": record.name.removeprefix("twofold."),
            "text": record.getMessage()[:2000],
        }
        line |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[-4000:]
        return json.dumps(line)


class _Private(logging.handlers.RotatingFileHandler):
    """Each new file is for its user alone, whatever the umask."""

    def _open(self) -> TextIOWrapper:
        os.close(os.open(self.baseFilename, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return super()._open()


def to_file(path: Path) -> None:
    """Log there, mode 0600, and nowhere else."""
    _use(_Private(path, maxBytes=SIZE, backupCount=KEPT, encoding="utf-8"))


def to_terminal() -> None:
    _use(logging.StreamHandler())


def _use(handler: logging.Handler) -> None:
    handler.setFormatter(JsonLines())
    root = logging.getLogger("twofold")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    logging.raiseExceptions = False  # a full disk must not end in a trace on a closed terminal
