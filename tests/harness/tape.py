"""What a power cut leaves of a folder: every change to files below it is on a tape (`tape.c`), and what nothing made durable may
be there or not.

The rules are POSIX's, not one file system's: a file's content is durable once it was synced, a name once its folder was."""

from __future__ import annotations

import enum
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
_HEAD = struct.Struct("=cQQ3I")
_SECTOR = 512


class Cut(enum.StrEnum):
    """What became of changes that were not durable."""

    NOTHING = "nothing of it"
    SECTORS = "any sectors of it"
    PREFIX = "all of it up to a moment"


@dataclass(frozen=True)
class Event:
    """kind: C made, D folder made, W written, L cut to `at`, S synced, N a folder synced, R renamed, K linked, U gone."""

    kind: str
    inode: int
    at: int
    one: Path
    two: Path
    data: bytes


def library(folder: Path) -> Path:
    """The recorder, compiled where it is older than its source."""
    made = folder / "tape.so"
    if not made.exists() or made.stat().st_mtime < SOURCE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = folder / f"tape.{os.getpid()}.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", fresh, SOURCE, "-ldl"], check=True)
        fresh.replace(made)
    return made


class Tape:
    """The recorder over one folder. `environment` is for the programs that write there."""

    def __init__(self, below: Path, beside: Path, built: Path) -> None:
        self.below, self.path, self.base = below, beside / "tape", beside / "base"
        self._full = beside / "full"
        self._first: dict[Path, int] = {}
        beside.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.environment = {
            "LD_PRELOAD": str(library(built)),
            "TWOFOLD_TAPE": str(self.path),
            "TWOFOLD_TAPE_BELOW": str(below),
            "TWOFOLD_TAPE_FULL": str(self._full),
        }

    def begin(self) -> None:
        """From here on; what is there now is durable."""
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.copytree(self.below, self.base, symlinks=True)
        self._first = {path: path.stat().st_ino for path in _files(self.below)}
        self.path.write_bytes(b"")

    def end(self) -> None:
        self.path.unlink(missing_ok=True)

    def fill(self) -> None:
        """Nothing more fits on this disk."""
        self._full.touch()

    def free(self) -> None:
        self._full.unlink(missing_ok=True)

    def events(self) -> Iterator[Event]:
        data, at = self.path.read_bytes(), 0
        while at + _HEAD.size <= len(data):
            kind, inode, offset, first, second, size = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            end = at + first + second + size
            if end > len(data):
                break  # it died while it wrote this
            one, two = data[at : at + first].decode(), data[at + first : at + first + second].decode()
            yield Event(kind.decode(), inode, offset, Path(one), Path(two), data[at + first + second : end])
            at = end

    def cut(self, how: Cut, dice: random.Random) -> int:
        """Make the folder what a disk may hold now, after the power went; nothing may run on it. Returns the changes on tape."""
        events = list(self.events())
        self.end()
        disk = _Disk(self.base, self.below, self._first)
        disk.play(events, how, dice)
        for path in self.below.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        disk.write()
        return len(events)


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        if event.kind == "L":
            del self.durable[event.at :]
            self.durable.extend(bytes(event.at - len(self.durable)))
            return
        end = event.at + len(event.data)
        self.durable.extend(bytes(max(0, end - len(self.durable))))
        self.durable[event.at : end] = event.data


class _Disk:
    """Folders, names and files that are durable, and what is not yet."""

    def __init__(self, base: Path, below: Path, first: dict[Path, int]) -> None:
        self._below = below
        self._folders = {below} | {below / path.relative_to(base) for path in base.rglob("*") if path.is_dir()}
        self._names: dict[Path, _File] = {}
        self._files: dict[int, _File] = {}
        for path, inode in first.items():
            content = (base / path.relative_to(below)).read_bytes()
            self._names[path] = self._files.setdefault(inode, _File(bytearray(content)))
        self._now = dict(self._names)
        self._pending: list[tuple[Event, _File | None]] = []

    def play(self, events: list[Event], how: Cut, dice: random.Random) -> None:
        moment = dice.randrange(len(events) + 1) if how is Cut.PREFIX else 0
        moment = max(moment, len(events) - dice.randrange(1, 30)) if moment else 0
        for nth, event in enumerate(events):
            if event.kind in "WL":
                file = self._files.setdefault(event.inode, _File())
                if event.kind == "W" or event.at < len(file.durable) or file.pending:
                    file.pending.append(event)
                else:
                    file.apply(event)
            elif event.kind == "S":
                file = self._files.setdefault(event.inode, _File())
                for each in file.pending:
                    file.apply(each)
                file.pending.clear()
            elif event.kind == "N":
                kept = [(each, named) for each, named in self._pending if not _of(each, event.one)]
                for each, named in self._pending:
                    if _of(each, event.one):
                        self._name(self._names, each, named)
                self._pending = kept
            else:
                self._named(event)
            if nth + 1 == moment:
                self._all()
        if how is Cut.SECTORS:
            self._some(dice)

    def _named(self, event: Event) -> None:
        """A name changes now; on the disk once its folder is synced."""
        file: _File | None = None
        if event.kind == "C":
            file = self._files[event.inode] = _File()
        elif event.kind in "RK":
            file = self._now.get(event.one)
        self._name(self._now, event, file)
        self._pending.append((event, file))

    def _name(self, names: dict[Path, _File], event: Event, file: _File | None) -> None:
        durable = names is self._names
        if event.kind == "C" and file is not None:
            names[event.one] = file
        elif event.kind == "K" and file is not None:
            names[event.two] = file
        elif event.kind == "R":
            if file is not None:
                names.pop(event.one, None)
                names[event.two] = file
            self._folder(names, event)
        elif event.kind == "U":
            names.pop(event.one, None)
            if durable:
                self._folders.discard(event.one)
        elif event.kind == "D" and durable:
            self._folders.add(event.one)

    def _folder(self, names: dict[Path, _File], event: Event) -> None:
        """A folder is renamed with all that is in it."""
        for path in [path for path in names if path.is_relative_to(event.one)]:
            names[event.two / path.relative_to(event.one)] = names.pop(path)
        if names is self._names:
            for path in [path for path in self._folders if path.is_relative_to(event.one)]:
                self._folders.discard(path)
                self._folders.add(event.two / path.relative_to(event.one))

    def _all(self) -> None:
        for file in self._files.values():
            for each in file.pending:
                file.apply(each)
            file.pending.clear()
        for event, named in self._pending:
            self._name(self._names, event, named)
        self._pending.clear()

    def _some(self, dice: random.Random) -> None:
        """Any sectors of what was written; names up to some moment of each folder."""
        for file in self._files.values():
            for event in file.pending:
                if event.kind == "L":
                    continue
                for at in range(0, len(event.data), _SECTOR):
                    if dice.random() < 0.5:
                        part = event.data[at : at + _SECTOR]
                        file.apply(Event("W", 0, event.at + at, event.one, event.two, part))
        for event, named in self._pending[: dice.randrange(len(self._pending) + 1)]:
            self._name(self._names, event, named)

    def write(self) -> None:
        for folder in sorted(self._folders):
            if folder != self._below and folder.parent in self._folders:
                folder.mkdir(mode=0o700, exist_ok=True)
        for path, file in self._names.items():
            if path.parent.is_dir():
                path.write_bytes(file.durable)
                path.chmod(0o600)


def _of(event: Event, folder: Path) -> bool:
    return folder in (event.one.parent, event.two.parent)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".log")
