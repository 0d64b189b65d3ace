"""The agent's part of the state directory. `docs/state-directory.md` names every file; a test compares the two.

A file is replaced whole (temporary file, fsync, rename, fsync of the folder), so that a reader or a power cut sees the old
one or the new one. A workspace that cannot be read is still listed, with what is wrong and what to do.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.model.errors import BadInputError, ConflictError, DamagedError, NoRoomError, NotFoundError, TwofoldError
from twofold.model.names import PALETTE, slug
from twofold.model.workspace import Custody, RunState

SCHEMA = "twofold-state-1"
LEASE, IMAGE, KEY, STATE, VAULT = "lease.json", "image.json", "key.wrapped", "state.json", "vault"
_GONE = ".gone"


@dataclass(frozen=True)
class Record:
    """`state.json`: what the agent must still know after its death or the computer's. Times are Unix seconds, 0 for never.

    `contacted_at` is the last time the server answered, `seen_at` what the time is known to have been at the least when the
    boot `seen_in` was `seen_boot` seconds old, so that turning the clock back gains nothing. `boot` is the kernel's boot id
    when the machine last started, `sound` whether it was given a sound card then, `network` whether a network card. `taken`:
    the server has said that this device's lease is no more. `leaving`: the generation with which it is being checked in, or
    "discard" or "wipe": the server may have agreed already. `locked` by the company, `locked_by` one of its administrators.
    `unlock_tries` since the last right unlock code, `unlock_locked` how many of them it was locked for. `backing_up` says
    why, while a back up is not ended; `backup_at` is when the newest one began, `verified` the newest generation whose files
    this device has read and found as their digests say. `version` is the image version that its disks stand on; `upgrade_to`
    the one that is being brought or is ready, `change` what the next boot does (`twofold.agent.change`), `trial`: the version
    that is there has not come up yet, and may give way to the former one, for which the vault keeps the generation `undo`.
    `grow_to`: bytes that its disk is to have from its next boot on (`twofold.agent.growth`). `epoch`: what its lease asked for as
    it last began a key epoch; 0 in records of earlier builds (`twofold.agent.epochs`).
    """

    custody: Custody = Custody.CHECKING_OUT
    run: RunState = RunState.OFF
    key: int = 0
    colour: str = ""
    memory_mib: int = 1024
    cpus: int = 2
    memory_stored: bool = False
    on_disk_verified_at: int = 0
    on_server_at: int = 0
    launched_at: int = 0
    contacted_at: int = 0
    seen_at: int = 0
    seen_boot: int = 0
    seen_in: str = ""
    accelerator: str = ""
    boot: str = ""
    sound: bool = False
    network: bool = False
    taken: bool = False
    leaving: str = ""
    locked: bool = False
    locked_by: str = ""
    unlock_tries: int = 0
    unlock_locked: int = 0
    backing_up: str = ""
    backup_at: int = 0
    verified: int = 0
    deferred_until: int = 0
    version: int = 0
    upgrade_to: int = 0
    change: str = ""
    trial: bool = False
    undo: int = 0
    grow_to: int = 0
    epoch: int = 0
    error: dict[str, str] | None = None

    def with_error(self, error: TwofoldError | None) -> Record:
        return dataclasses.replace(self, error=None if error is None else error.to_wire())

    def to_bytes(self) -> bytes:
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, untrusted_state: bytes) -> Record:
        try:
            body = json.loads(untrusted_state)
            if not isinstance(body, dict) or body.pop("schema", None) != SCHEMA:
                raise ValueError("another schema")
            fields = {field.name: field for field in dataclasses.fields(cls)}
            if body.keys() - fields.keys():
                raise ValueError(f"unknown fields {sorted(body.keys() - fields.keys())}")
            body["custody"], body["run"] = Custody(body["custody"]), RunState(body["run"])
            for name, value in body.items():
                kind = (dict, type(None)) if name == "error" else (type(fields[name].default),)
                if type(value) not in kind:
                    raise ValueError(f"{name} has another type")
            if not 0 <= body.get("key", 0) <= 9 or body.get("colour", "") not in {"", *PALETTE}:
                raise ValueError("its key or colour is out of range")
            return cls(**body)
        except (ValueError, KeyError, TypeError) as wrong:
            raise DamagedError(f"The workspace's state file cannot be read ({wrong!s:.200}).") from wrong


class Store:
    """The folder `state/workspaces`, one folder a workspace."""

    def __init__(self, state: Path) -> None:
        self.root = state / "workspaces"
        self.root.mkdir(mode=0o700, exist_ok=True)
        for left in self.root.glob(f".*{_GONE}"):
            shutil.rmtree(left, ignore_errors=True)

    def names(self) -> list[str]:
        """The workspaces on this device, whole or broken."""
        found = []
        for entry in sorted(self.root.iterdir()):
            try:
                found.append(slug(entry.name, "a workspace"))
            except BadInputError:
                continue  # not ours: a stray file that a person put there
        return found

    def folder(self, name: str) -> Path:
        return self.root / slug(name, "a workspace")

    def exists(self, name: str) -> bool:
        return self.folder(name).is_dir()

    def create(self, name: str) -> Path:
        """Raises: ConflictError: it is on this device already."""
        folder = self.folder(name)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError as there:
            raise ConflictError(
                f"The workspace {name} is on this device already.", safe="Nothing was changed."
            ) from there
        sync_folder(self.root)
        return folder

    def read(self, name: str, file: str) -> bytes:
        try:
            return (self.folder(name) / file).read_bytes()
        except FileNotFoundError as gone:
            if not self.exists(name):
                raise _none(name) from gone
            if file == KEY and (self.folder(name) / VAULT).exists():
                raise DamagedError(
                    f"The workspace {name} lacks its key; without it nothing of it can be read.",
                    safe="Nothing was removed; no other copy of the key exists but in a back-up of this computer.",
                    next=f"Restore {self.folder(name) / KEY}, or give the workspace up:  twofold remove {name} --yes",
                ) from gone
            raise DamagedError(
                f"The workspace {name} lacks its file {file}.",
                safe="Its disks are untouched.",
                next=f"Have it replaced:  twofold checkout {name}",
            ) from gone
        except OSError as broken:
            raise DamagedError(
                f"The file {file} of the workspace {name} cannot be read ({broken.strerror})."
            ) from broken

    def write(self, name: str, file: str, data: bytes) -> None:
        """Raises: NoRoomError: as it was. NotFoundError: the workspace has left this device, and nothing of it comes back."""
        try:
            write_durably(self.folder(name) / file, data)
        except FileNotFoundError as gone:
            raise _none(name) from gone

    def record(self, name: str) -> Record:
        return Record.from_bytes(self.read(name, STATE))

    def save(self, name: str, record: Record) -> None:
        self.write(name, STATE, record.to_bytes())

    def destroy_key(self, name: str) -> bool:
        """Overwrite and remove the wrapped key; without it the vault is noise. True if there was one."""
        path = self.folder(name) / KEY
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        with path.open("r+b", buffering=0) as file:
            file.write(os.urandom(size))
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)
        return True

    def destroy(self, name: str) -> None:
        """Remove the rest. Idempotent; the key goes first, so that a death half-way leaves nothing that opens."""
        if self.exists(name):
            self.destroy_key(name)
            # By another name, so that a death half-way leaves no half workspace to be listed.
            gone = self.root / f".{name}{_GONE}"
            shutil.rmtree(gone, ignore_errors=True)
            self.folder(name).rename(gone)
            sync_folder(self.root)
            shutil.rmtree(gone)


def _none(name: str) -> NotFoundError:
    return NotFoundError(f"There is no workspace {name} on this device.", next="See what there is:  twofold list")


def free_look(taken: Iterable[Record], wanted: str) -> tuple[int, str]:
    """A key (1 to 9, 0 when all are taken) and a colour no other workspace here has: no two on a device look alike."""
    others = list(taken)
    keys = {record.key for record in others}
    colours = {record.colour for record in others}
    key = next((n for n in range(1, 10) if n not in keys), 0)
    return key, next((name for name in (wanted, *PALETTE) if name not in colours), wanted)


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` whole, mode 0600, on the disk when this returns.

    Raises:
        NoRoomError: the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as failed:
        temporary.unlink(missing_ok=True)
        if (full := no_room(failed)) is not None:
            raise NoRoomError(
                f"The disk is full: {path.name} was not written.", safe="The former file is untouched.", next=full.next
            ) from failed
        raise
    sync_folder(path.parent)


def no_room(failed: BaseException) -> NoRoomError | None:
    """The same in words where a disk of this device had no room; else None."""
    if not isinstance(failed, OSError) or failed.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    where = f" that holds {Path(os.fsdecode(failed.filename)).parent}" if failed.filename else ""
    return NoRoomError(
        f"The disk{where} is full.",
        safe="What was saved before is untouched.",
        next="Free some space on that disk, then try again.",
    )


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def as_json(data: bytes, what: str) -> dict[str, Any]:
    """Parse one of our own JSON files.

    Raises:
        DamagedError: it is not a JSON object any more.
    """
    try:
        body = json.loads(data)
    except ValueError as wrong:
        raise DamagedError(f"{what} is damaged: it is not JSON any more.") from wrong
    if not isinstance(body, dict):
        raise DamagedError(f"{what} is damaged: it is not an object.")
    return body
