"""What a device believes about images: python-tuf's client in a short-lived process of its own, which the agent feeds.

python-tuf costs 12 MiB of memory, which an agent that mostly idles does not carry (docs/decisions/0012). The child has no
network: it asks for documents by name on its standard output and gets them on its standard input, one JSON line each. It keeps
what it verified in a folder, beside `seen.json` with the highest versions, and says what the newest targets list.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from twofold.model.canonical import canonical
from twofold.model.errors import (
    DamagedError,
    NoRoomError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    TwofoldError,
    from_wire,
)
from twofold.model.release import Release
from twofold.platform.dirs import private
from twofold.platform.run import spawn
from twofold.trust.keys import write_private

SCHEMA = "twofold-seen-1"
_MAX_LINE = 16 << 20
_ROUNDS = 600  # documents in one update: 256 roots at most, and the rest
_SOURCE = str(Path(__file__).resolve().parents[2])


class Feed(Protocol):
    """Where documents come from; they are not trusted (`twofold.agent.remote.Remote`)."""

    def metadata(self, name: str, limit: int) -> bytes:
        """The document `name` (such as `timestamp.json`), of at most `limit` bytes.

        Raises:
            NotFoundError: there is none.
        """


def refresh(folder: Path, root: bytes, feed: Feed) -> tuple[Release, ...]:
    """Every release that the newest targets list, verified from the pinned `root` on; `folder` keeps what was seen.

    Raises:
        RefusedError: forged, expired, or older than what this device has seen. UnreachableError, TimedOutError: the feed's.
        BadInputError: malformed. DamagedError: the child failed, or what is kept cannot be read.
    """
    words = [sys.executable, "-P", "-m", "twofold.trust.updater"]
    pipe = -1  # subprocess.PIPE
    child = spawn(words, env={"PYTHONPATH": _SOURCE}, stdin=pipe, stdout=pipe)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        _send(child.stdin, {"folder": str(private(folder)), "root": base64.b64encode(root).decode()})
        return _serve(child.stdin, child.stdout, feed)
    except (BrokenPipeError, ValueError, KeyError, TypeError) as off:
        raise DamagedError(
            "The check of the company's images failed.",
            safe="Nothing new was used; what is on this device goes on running.",
            next="Try again; if it stays so, look at the agent's log:  twofold log",
        ) from off
    finally:
        child.kill()
        child.wait()
        for end in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                end.close()


def _serve(child: IO[bytes], told: IO[bytes], feed: Feed) -> tuple[Release, ...]:
    failed: TwofoldError | None = None
    for _ in range(_ROUNDS):
        line = json.loads(told.readline(_MAX_LINE) or b"null")
        if "releases" in line:
            return tuple(Release.from_wire(row) for row in line["releases"])
        if "error" in line:
            raise failed or from_wire(line["error"])
        try:
            answer = feed.metadata(str(line["get"]), int(line["limit"]))
            _send(child, {"ok": base64.b64encode(answer).decode()})
        except NotFoundError:
            _send(child, {"none": True})
        except TwofoldError as away:
            failed = away
            _send(child, {"failed": True})
    raise TimedOutError("The company's list of images has no end.", safe="Nothing new was used.")


def update(folder: Path, root: bytes, get: Callable[[str, int], bytes | None]) -> tuple[Release, ...]:
    """The same in this process: `get` gives a document, or None where there is none. Raises as `refresh`."""
    from tuf.api import exceptions as off
    from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
    from tuf.ngclient import Updater, UpdaterConfig
    from tuf.ngclient.fetcher import FetcherInterface

    from twofold.trust.roles import MAX_METADATA, read, releases

    class Fetcher(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            name = url.removeprefix("feed:/")
            try:
                found = get(name, MAX_METADATA)
            except OSError as away:
                raise off.DownloadError(f"{name} did not come") from away
            if found is None:
                raise off.DownloadHTTPError(f"There is no {name}.", 404)
            yield found

    before = _seen(folder)
    try:
        updater = Updater(
            str(folder), "feed:/", fetcher=Fetcher(), config=UpdaterConfig(max_root_rotations=256), bootstrap=root
        )
        updater.refresh()
    except off.ExpiredMetadataError as late:
        raise RefusedError(
            "The server's list of images is too old to be believed.",
            safe="What is on this device goes on running.",
            next="Check this device's clock; if it is right, tell your administrator.",
        ) from late
    except off.DownloadLengthMismatchError as long:
        raise RefusedError("The server's list of images has no end.", safe="It was not used.") from long
    except (off.RepositoryError, off.DownloadError) as wrong:
        raise _untrue(f"{type(wrong).__name__}: {wrong}") from wrong

    def kept(name: str) -> bytes:
        return (folder / f"{name}.json").read_bytes()  # what was just verified

    trusted, targets = read(Root, kept("root")).signed, read(Targets, kept("targets")).signed
    versions = {
        "root": trusted.version,
        "timestamp": read(Timestamp, kept("timestamp")).signed.version,
        "snapshot": read(Snapshot, kept("snapshot")).signed.version,
        "targets": targets.version,
    }
    now = {name: {"version": number, "keys": sorted(trusted.roles[name].keyids)} for name, number in versions.items()}
    for name, held in before.items():
        # New keys for a role begin a new count: that is how a company recovers from a thief who counted it to the end.
        if now[name]["version"] < held["version"] and (name == "root" or now[name]["keys"] == held["keys"]):
            raise _untrue(f"{name} went back from {held['version']} to {now[name]['version']}")
    _durable(folder)
    if now != before:
        write_private(folder / "seen.json", canonical({"schema": SCHEMA, "roles": now}))
    return releases(targets.targets.values())


def _seen(folder: Path) -> dict[str, Any]:
    try:
        held = json.loads((folder / "seen.json").read_bytes())
        if held["schema"] != SCHEMA:
            raise ValueError("another schema")
        return {
            name: {"version": int(row["version"]), "keys": list(row["keys"])} for name, row in held["roles"].items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as off:
        raise DamagedError(
            f"{folder / 'seen.json'} cannot be read.",
            safe="Workspaces that are here go on running.",
            next="Enrol this device again, with a new invitation.",
        ) from off


def _untrue(why: str) -> RefusedError:
    return RefusedError(
        f"The server's list of images does not hold ({why[:200]}).",
        safe="It was not used; what is on this device goes on running.",
        next="Tell your administrator: the server is out of order or not honest.",
    )


def _durable(folder: Path) -> None:
    """python-tuf replaces its files and does not flush them: a power cut could leave an empty one, which it then ignores."""
    for path in (*folder.rglob("*.json"), folder, folder / "root_history"):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _send(to: IO[bytes], document: dict[str, Any]) -> None:
    to.write(canonical(document) + b"\n")
    to.flush()


def main() -> None:
    """The child."""
    said, heard = sys.stdout.buffer, sys.stdin.buffer
    asked = json.loads(heard.readline(_MAX_LINE))

    def get(name: str, limit: int) -> bytes | None:
        _send(said, {"get": name, "limit": limit})
        answer = json.loads(heard.readline(_MAX_LINE))
        if "failed" in answer:
            raise OSError(name)
        return None if "none" in answer else base64.b64decode(answer["ok"])

    try:
        found = update(Path(asked["folder"]), base64.b64decode(asked["root"]), get)
    except TwofoldError as no:
        _send(said, {"error": no.to_wire()})
    except OSError as full:
        if full.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        short = NoRoomError(
            "The disk is full: what was seen of the company's images was not kept.",
            safe="Nothing new was used; what is on this device goes on running.",
            next=f"Free some space on the disk that holds {asked['folder']}, then try again.",
        )
        _send(said, {"error": short.to_wire()})
    else:
        _send(said, {"releases": [release.to_wire() for release in found]})


if __name__ == "__main__":
    main()
