"""A vault on its way between devices, and in repair: each a vault process for this one thing, which ends with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from twofold.model.errors import ConflictError
from twofold.model.generation import SealedFile
from twofold.model.progress import Progress, silent
from twofold.vault.afar import Feed
from twofold.vault.generations import files_to_wire, holding
from twofold.vault.process import Starter
from twofold.vault.seam import Contents, Keys


@dataclasses.dataclass
class Feeding:
    """What an opening hands over where a part of the vault is elsewhere: arguments and descriptors; and who answers. Unless that
    is kept, it ends with the opening."""

    args: dict[str, Any]
    fds: list[int]
    feed: Feed | None = None
    kept: bool = False


class Moving(ABC):
    """The part of `twofold.vault.seam.Vault` that moves and mends."""

    @abstractmethod
    def _descriptors(self, where: Path) -> AbstractContextManager[list[int]]: ...

    @abstractmethod
    def _feeding(self, where: Path, files: Sequence[SealedFile] = ()) -> AbstractContextManager[Feeding]: ...

    @abstractmethod
    def _key(self) -> AbstractContextManager[int]: ...

    @abstractmethod
    def _anchor(self, where: Path) -> Path: ...

    def next_epoch(self, keys: Keys) -> Keys:
        with Starter() as starter, self._key() as key:
            answer, _ = starter.call("next_epoch", to_wire(keys), [key])
        return Keys(keys.workspace, answer["keys"].encode())

    def rewrap(self, keys: Keys, public: bytes, *, allowed: bool) -> Keys:
        with Starter() as starter, self._key() as key:
            args = to_wire(keys) | {"for": public.hex(), "allowed": allowed}
            answer, _ = starter.call("rewrap", args, [key])
        return Keys(keys.workspace, answer["keys"].encode())

    def lock(self, keys: Keys, code: str) -> Keys:
        return self._under_code("lock_keys", keys, code)

    def unlock(self, keys: Keys, code: str) -> Keys:
        return self._under_code("unlock_keys", keys, code)

    def _under_code(self, verb: str, keys: Keys, code: str) -> Keys:
        with Starter() as starter, self._key() as key:
            answer, _ = starter.call(verb, to_wire(keys) | {"code": code}, [key])
        return Keys(keys.workspace, answer["keys"].encode())

    @contextlib.contextmanager
    def receiving(self, where: Path) -> Iterator[None]:
        """A new folder for a vault that comes from elsewhere; gone again if the block fails."""
        with making(where, self._anchor(where)):
            yield

    def adopt(
        self, where: Path, keys: Keys, contents: Contents, progress: Progress = silent, *, far: bool = False
    ) -> dict[str, Any]:
        record = dataclasses.asdict(contents) | {"files": files_to_wire(contents.files)}
        del record["time"], record["note"]
        with (
            Starter() as starter,
            self._descriptors(where) as fds,
            holding(record) as manifest,
            self._feeding(where, contents.files if far else ()) as feeding,
        ):
            args = to_wire(keys) | ({"far": True} if far else {})
            answer, _ = starter.call("import", args, [*fds, manifest, *feeding.fds], progress, "verifying")
        return answer

    def survey(self, where: Path, keys: Keys, progress: Progress = silent) -> tuple[str, dict[str, Any]]:
        with Starter() as starter, self._descriptors(where) as fds:
            answer, _ = starter.call("survey", to_wire(keys), fds, progress, "reading")
        return answer["digest"], answer["plan"]

    def repair(self, where: Path, keys: Keys, plan: str, progress: Progress = silent) -> dict[str, Any]:
        with Starter() as starter, self._descriptors(where) as fds:
            answer, _ = starter.call("repair", to_wire(keys) | {"plan": plan}, fds, progress, "reading")
        return answer


@contextlib.contextmanager
def making(where: Path, anchor: Path) -> Iterator[None]:
    """A new folder for a vault; it and its anchor are gone again if the block fails.

    Raises:
        ConflictError: there is one already.
    """
    try:
        where.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ConflictError(f"There is a vault in {where} already.", safe="It was not touched.") from None
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, where, ignore_errors=True)
        # One that a making which was killed left behind belongs to a vault that is gone.
        anchor.unlink(missing_ok=True)
        undo.callback(anchor.unlink, missing_ok=True)
        yield
        undo.pop_all()


def to_wire(keys: Keys) -> dict[str, Any]:
    return {"workspace": keys.workspace, "keys": keys.wrapped.decode(errors="replace")}


def sync_folder(folder: Path) -> None:
    """Make renames and removals in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
