"""The seam between a workspace's machine and its store."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from twofold.model.errors import DamagedError, TwofoldError
from twofold.model.generation import Manifest, SealedFile
from twofold.model.image import ImageVersion, Part
from twofold.model.machine import MemoryIdentity
from twofold.model.progress import Progress, silent

_LOCKED = b'{"schema":"twofold-locked-keys-1"'


@dataclass(frozen=True)
class DeviceSpec:
    """A device of a vault. `size` in bytes, a multiple of 4096. A `base` device is never written once the vault is made."""

    name: str
    size: int
    base: bool = False


@dataclass(frozen=True)
class Keys:
    """A workspace's data keys, wrapped for this device (docs/keys.md): noise to whoever holds them here."""

    workspace: str
    wrapped: bytes

    @property
    def locked(self) -> bool:
        """Whether they are under a person's unlock code too, so that no vault opens with them as they are."""
        return self.wrapped.startswith(_LOCKED)

    @property
    def epoch(self) -> int:
        """The newest epoch that they have a key of. Raises: DamagedError: they are locked, or no keys."""
        try:
            return max(int(row["epoch"]) for row in json.loads(self.wrapped)["epochs"])
        except (ValueError, KeyError, TypeError) as off:
            raise DamagedError(f"The wrapped keys of {self.workspace} cannot be read.") from off


@dataclass(frozen=True)
class Generation:
    """A commit point over all devices and streams. `time` in Unix seconds."""

    number: int
    time: int
    note: str


@dataclass(frozen=True)
class Contents:
    """What the vault itself says of a generation: `twofold.model.generation.Manifest` without what the agent knows. Files ascend
    by name."""

    vault: str
    made: int
    generation: int
    time: int
    note: str
    epoch: int
    root: str
    pieces: int
    files: tuple[SealedFile, ...]

    @classmethod
    def of(cls, manifest: Manifest) -> Contents:
        return cls(**{field.name: getattr(manifest, field.name) for field in dataclasses.fields(cls)})

    def manifest(self, *, workspace: str, signer: str, parent: str, image: ImageVersion) -> Manifest:
        """With what the agent knows: the workspace, who signs it (a public key, hex), what it builds upon, and the image."""
        said = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Manifest(
            **said, workspace=workspace, signer=signer, parent=parent,
            image=image.image, image_version=image.version, arch=str(image.arch),
        )  # fmt: skip


class Reading(Protocol):
    """A generation whose files stay while this lasts, whatever the cleaner would like to do: sealed bytes alone."""

    contents: Contents

    def open(self, name: str) -> int:
        """A descriptor to read any range of a file from, which the caller closes. What lies behind the file's length is not the
        generation's."""

    def digest(self, fd: int, length: int) -> str:
        """BLAKE3 of the first `length` bytes of any file, 64 hex digits: of a copy, to be compared.

        Raises:
            DamagedError: it is shorter.
        """


class Generations(Protocol):
    """The history of an open vault. To replicate is to commit, to ask what of `reading(n).contents` the server lacks, to send
    these files or ranges of them, and then the signed manifest; `forget` older ones when it is acknowledged."""

    def sweep(self) -> None:
        """Let files go of which nothing is needed any more, so that the next generation does not name them: what a memory that
        was resumed from has left, say. Quick where there are none."""

    def commit(self, note: str) -> Generation:
        """Keep the present state of all devices, durably. What is written from now on goes to other files."""

    def generations(self) -> tuple[Generation, ...]:
        """Those that are kept, the oldest first."""

    def forget(self, generation: int) -> None:
        """Keep one no longer; what only it needed is the cleaner's."""

    def revert(self, generation: int) -> None:
        """Put all devices back.

        Raises:
            ConflictError: a device is connected; nothing was changed.
        """

    def changed(self, device: str, since: int) -> Iterator[tuple[int, int]]:
        """Ranges (offset, length) that may differ from what they were at the generation `since`, in order."""

    def reading(
        self,
        generation: int | None,
        *,
        note: str = "",
        known: Sequence[SealedFile] = (),
        progress: Progress = silent,
    ) -> AbstractContextManager[Reading]:
        """A generation to be copied; None commits one now, with `note`. Digests of files that are `known` are not computed again.

        Raises:
            NotFoundError: there is none of that number. ConflictError: the cleaner has rewritten files of it, so that it can't be
            copied by itself any more; a newer one has it in it.
        """

    def upgrade(self) -> dict[str, Any]:
        """Give the vault the newest form that this version knows, in place: `{"upgraded": bool, "format": {…}}`."""


@dataclass(frozen=True)
class Base:
    """The image version that devices stand on where they were never written. `sealed` is the file of its index, sealed as
    the part `base`; `digest` the SHA-256 in hex of the plain one; `folders` one or two of sealed chunks, the machine's cache
    first."""

    sealed: Path
    digest: str
    folders: tuple[Path, ...]


@dataclass(frozen=True)
class Term:
    """How long a vault process may hold the keys: `lease` as the server signed it, `server` the public key (hex) by which this
    device knows the server, `seen` what the time is known to be at the least (Unix seconds)."""

    lease: dict[str, Any]
    server: str
    seen: int

    def to_wire(self) -> dict[str, Any]:
        return {
            "payload": base64.b64decode(self.lease["payload"]).hex(),
            "signatures": [base64.b64decode(each["sig"]).hex() for each in self.lease["signatures"]],
            "server": self.server,
            "seen": self.seen,
        }


class Parts(Protocol):
    """Boot parts at rest are files, sealed under keys that the vault process derives."""

    def seal_part(self, part: Part, plain: int, sealed: int) -> None:
        """Seal the whole of the descriptor `plain` to the empty file `sealed`, which is durable on return."""

    def open_part(self, part: Part, sealed: int) -> int:
        """The plain part as a memfd, which the caller closes.

        Raises:
            DamagedError: torn, forged, or of another version of the image.
        """


class Inspected(Parts, Generations, Protocol):
    """A vault whose process can be asked about it."""

    def status(self) -> dict[str, Any]:
        """docs/protocol.md, chapter 4, `status`: what is open, and what it takes."""

    def resize(self, device: str, size: int, *, shrink: bool = False) -> None:
        """Give a device another size in bytes, durably, which the next connection has. What it grows by is zeroes; with `shrink`
        it may also become smaller, and what lies beyond is lost.

        Raises:
            RefusedError: it is read-only, or would shrink without `shrink`. ConflictError: memory is stored that would not fit
            any more, or it would shrink while a device is connected. UsageError: no device can have this size. Nothing was
            changed.
        """

    def begin_anew(self, device: str, size: int, *, read_only: bool) -> None:
        """Give up all that was written to a device, durably and at once or not at all: it is its base again, of this size.

        Raises:
            ConflictError: memory is stored, or somebody is connected. UsageError: no device can have this size. Nothing was
            changed.
        """

    def consume_memory(self) -> None:
        """Durably forget the stored memory. Called before the guest's first instruction: memory never runs twice."""

    def check(self, data: bool, progress: Progress) -> dict[str, Any]:
        """Go through all devices and the stored memory, `data`: open each block. What is lost is in the answer (docs/protocol.md,
        chapter 4, `check`), and no error."""


class Filling(Parts, Protocol):
    """A new vault on its way to its first use."""

    def fill(self, device: str, source: BinaryIO, progress: Progress) -> None:
        """Write `source` to a device from its start."""


class OpenVault(Inspected, Protocol):
    """A vault with its process running. The process is the only holder of the data key and outlives the agent."""

    @property
    def pid(self) -> int: ...

    def begin_epoch(self, keys: Keys) -> None:
        """Seal what is written from now on under the newest of these keys, which go on from those that it is open with. Twice is
        once.

        Raises:
            RefusedError: they do not. NoRoomError: it is to be done again.
        """

    def connect(self, device: str) -> socket.socket:
        """A connected NBD stream for one export, ready to be handed to an engine. Read-only for a base device."""

    @property
    def socket(self) -> Path:
        """The NBD server's private socket, each device an export. It is the same again when the process has been replaced."""

    def head(self) -> str:
        """The exact state of all devices together, as text; it changes with each write, and never back."""

    def seal_memory(self, identity: MemoryIdentity, memory: int, progress: Progress) -> int:
        """Seal the data ranges of the memfd `memory`; durable on return. Returns the stored bytes.

        Raises:
            NoRoomError: the disk is short; nothing is stored and the machine may go on.
        """

    def memory_identity(self) -> MemoryIdentity | None:
        """What the stored memory belongs to (authenticated), or None where there is none."""

    def open_memory(self, memory: int, progress: Progress) -> None:
        """Unseal the stored memory into the empty memfd `memory`, which becomes as long as it was. What it holds before this
        returns is of no use.

        Raises:
            DamagedError: torn, foreign or forged; the disks are safe and the machine can boot.
        """

    def wants(self) -> AsyncIterator[list[bytes]]:
        """Ids of chunks that reads wait for and no folder has whole, the most urgent first; what is still wanted from before
        comes first. Ends with the process."""

    def arrived(self, ids: Sequence[bytes]) -> None:
        """These lie in the first folder now."""

    def absent(self, ids: Sequence[bytes], why: str) -> None:
        """These can't be had now: what waits for them fails, and the engine pauses its guest."""

    def touched(self) -> list[tuple[str, int, int]]:
        """What was read of the base since the opening, in the order of the first time: device, offset and length in bytes."""

    def fill(self, progress: Progress) -> bool:
        """Bring one file of those that are with the server still, as `Vault.fill`."""

    def away(self) -> TwofoldError | None:
        """Why the last thing that the process asked of the server could not be had; None if it could."""

    def renew(self, term: Term) -> None:
        """From now on the keys may be held as long as this.

        Raises:
            RefusedError: it is not signed by the server of the lease before, or is of another holder or workspace, or over.
        """

    def close(self) -> None:
        """Flush, stop the process, drop the key. Idempotent."""


class Vault(Protocol):
    """Vaults at rest, each in a folder of its own."""

    def device_key(self) -> bytes:
        """The public half (X25519, 32 bytes) of the key that this device's data keys are wrapped for; made at the first call."""

    def new_keys(self, workspace: str) -> Keys:
        """The keys of a new workspace. Nobody outside the vault process ever sees them plain."""

    def creating(self, where: Path, keys: Keys, devices: Sequence[DeviceSpec]) -> AbstractContextManager[Filling]:
        """Make a vault in the new folder `where` and fill it. At the end of the block all is durable and base devices are
        read-only for ever; on any failure nothing remains.

        Raises:
            ConflictError: there is one already. NoRoomError: the disk is short.
        """

    def resting(self, where: Path, keys: Keys, *, accept: bool = False) -> AbstractContextManager[Inspected]:
        """A vault that serves nobody, and needs no base. `accept`: as it is, although it is older than its anchor or the anchor
        is lost. Raises as `open`."""

    def open(
        self, where: Path, keys: Keys, runtime: Path, base: Base | None = None, term: Term | None = None
    ) -> OpenVault:
        """Start the vault process, its private sockets in `runtime`. `base`: what it was made on. By itself, whoever lives, it
        stops serving and drops the keys soon after the end of `term`; without one it holds them for ever.

        Raises:
            ConflictError: it is open already. DamagedError: it cannot be opened; says what is safe. RefusedError: the term is
            over, or not the server's.
        """

    def attach(self, where: Path, runtime: Path) -> OpenVault | None:
        """The already running process of this vault (after an agent's death), or None; one that was never recorded is ended."""

    def release(self, where: Path, *, given_up: bool = False) -> None:
        """End whatever process still has this vault open, recorded or not: nobody will attach to it. `given_up`: at once, since
        the vault is about to be destroyed. Idempotent."""

    def next_epoch(self, keys: Keys) -> Keys:
        """The keys with a fresh epoch, wrapped for this device alone: older keys open nothing that is written under it."""

    def lock(self, keys: Keys, code: str) -> Keys:
        """The same, sealed under a person's unlock code as well: nothing but `unlock` takes them then."""

    def unlock(self, keys: Keys, code: str) -> Keys:
        """What `lock` was given.

        Raises:
            RefusedError: another code. DamagedError: they are not locked keys, or were changed.
        """

    def rewrap(self, keys: Keys, public: bytes, *, allowed: bool) -> Keys:
        """The keys for the device with this X25519 key, and for no other. `allowed` is what the company's policy says.

        Raises:
            RefusedError: it is not.
        """

    def receiving(self, where: Path) -> AbstractContextManager[None]:
        """A new folder for the files of a vault that comes from elsewhere. On any failure of the block nothing remains."""

    def adopt(
        self, where: Path, keys: Keys, contents: Contents, progress: Progress = silent, *, far: bool = False
    ) -> dict[str, Any]:
        """Make the vault `contents` of the files in `where`, once each is verified; `keys` have a newer epoch than any in it, and
        all that is written here goes under that. Suspended memory is forgotten. The caller has checked whose record it is.
        `far`: no file need be here; what is read is fetched and verified then, the rest by `fill`.

        Raises:
            DamagedError: a file is not what the record names. BadInputError, UsageError: the record does not fit.
        """

    def survey(self, where: Path, keys: Keys, progress: Progress = silent) -> tuple[str, dict[str, Any]]:
        """The digest of a plan, and the plan: what a repair would give up, and what is safe (docs/protocol.md, chapter 4).
        Nothing is changed."""

    def repair(self, where: Path, keys: Keys, plan: str, progress: Progress = silent) -> dict[str, Any]:
        """Give up what the plan with this digest names.

        Raises:
            ConflictError: something else would be given up by now; nothing was changed.
        """

    def afar(self, where: Path) -> tuple[int, int] | None:
        """Sealed bytes that are here, of how many; None if all of the vault is here."""

    def fill(self, where: Path, progress: Progress) -> bool:
        """Bring one file of a vault that nobody has open, whole and verified, durably. Whether there are more.

        Raises:
            ConflictError: somebody has it open, or has ended this to open it. DamagedError: it is not what was backed up.
        """

    def stored_bytes(self, where: Path) -> int:
        """What the vault takes on this disk, in bytes."""

    def destroy(self, where: Path) -> None:
        """Remove every file of the vault. The caller has destroyed the key before."""
