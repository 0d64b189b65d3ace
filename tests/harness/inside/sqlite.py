"""Inside a small guest: SQLite commits in ext4 on several disks in turn. Says `rate DISK MODE ROUND COMMITS-PER-SECOND`."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from tests.harness.inside.guest import HOST, main, say, sh

WORDS = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
DISKS = WORDS["disks"].split(",")  # names, from /dev/vdb on
ROUNDS, COMMITS = int(WORDS["rounds"]), int(WORDS["commits"])
MODES = ("delete", "wal")


def commits(folder: Path, mode: str) -> float:
    """Commits a second of one row each, every one durable when it returns (synchronous=FULL)."""
    path = folder / "database"
    for left in folder.glob("database*"):
        left.unlink()
    database = sqlite3.connect(path, isolation_level=None)
    assert database.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE mail (id INTEGER PRIMARY KEY, folder TEXT, body TEXT)")
    database.execute("CREATE INDEX folders ON mail (folder)")
    os.sync()
    began = time.monotonic()
    for number in range(COMMITS):
        row = (f"folder {number * 7919 % 13}", "a line of text\n" * 20)
        database.execute("INSERT INTO mail (folder, body) VALUES (?, ?)", row)
    seconds = time.monotonic() - began
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return COMMITS / seconds


def work() -> None:
    sh("modprobe", "ext4")
    places = []
    for nth, name in enumerate(DISKS):
        device, place = f"/dev/vd{'bcdefg'[nth]}", Path("/run", name)
        sh(HOST + "mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device)
        place.mkdir()
        sh("mount", "-t", "ext4", device, str(place))
        places.append((name, place))
    for one in range(-1, ROUNDS):  # the first warms everything up
        for mode in MODES:
            turn = one % len(places)
            for name, place in places[turn:] + places[:turn]:
                rate = commits(place, mode)
                if one >= 0:
                    say("rate", name, mode, one, f"{rate:.3f}")
    for _, place in places:
        sh("umount", str(place))


main(work)
