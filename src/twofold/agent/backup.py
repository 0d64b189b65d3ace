"""Backing up (the protocol says: replicate): a point in time of a workspace's disks goes to the server, while it runs or not.

Each step may be the last that this agent takes. What was committed in the vault and is not on the server yet is known by its note
and its number, and is what the next agent goes on with; its manifest is the same then, and so the server knows it again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twofold.agent import epochs, rights, sharing
from twofold.agent.disks import at_hand
from twofold.agent.operations import AgentEndsError, Operation
from twofold.agent.past import BRANCH, GoneError, Holding, Kept, Past
from twofold.agent.store import LEASE, VAULT, as_json
from twofold.agent.workspace import Workspace
from twofold.model.errors import (
    BadInputError,
    ConflictError,
    DamagedError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    TwofoldError,
    UnreachableError,
)
from twofold.model.generation import Manifest, SealedFile
from twofold.model.lease import Lease
from twofold.model.policy import DEFER_SECONDS
from twofold.trust.signed import Context, sign, verify
from twofold.vault.seam import Contents, Generations

log = logging.getLogger(__name__)
NOTE = "backup"
PERSON, SCHEDULE, COMPANY = "person", "schedule", "company"  # who wants it
FROZEN = 5  # seconds after which a guest thaws by itself
PATIENCE = 60.0  # seconds without a byte that a server may be away before the rest is left for later
_TRIES = 4
_AGAIN = 1.0

Turn = AbstractAsyncContextManager[Any]


@dataclass(frozen=True)
class Base:
    """What the next generation follows: ids of the head and of the manifest that it is."""

    head: str
    content: str
    kept: Kept | None


@dataclass(frozen=True)
class Sent:
    files: int = 0
    bytes: int = 0


def holding(ws: Workspace) -> Holding:
    lease, _ = ws.whole()
    return Holding(ws.name, lease.token, as_json(ws.store.read(ws.name, LEASE), "The lease"))


def base(ws: Workspace, lease: Lease) -> Base:
    kept = Kept.load(ws.folder)
    return Base(kept.head, kept.content.id, kept) if kept is not None else Base(lease.head, lease.content, None)


async def asked(ws: Workspace, op: Operation, *, turn: Turn, public: bytes = b"") -> dict[str, Any]:
    """As the person asks for it. With `public`, another device's X25519 key, that device can open what is backed up.

    Raises:
        RefusedError: the company's policy says no.
    """
    lease, _ = ws.whole()
    if not lease.policy.replicate:
        raise RefusedError(
            f"Your company does not let {ws.title} be backed up on demand.",
            safe="Nothing was changed." + (" It is backed up by itself." if lease.policy.replicate_seconds else ""),
        )
    if public:
        rights.require(lease, ws.record)
    vaults = ws.rooms.vault
    keys = (
        await asyncio.to_thread(partial(vaults.rewrap, ws.keys(), public, allowed=lease.policy.keys_leave))
        if public
        else None
    )
    result = await wanted(ws, op, turn, why=PERSON)
    if keys is not None:
        await asyncio.to_thread(lambda: Past(ws.rooms.remote()).wraps(ws.name, keys.wrapped))
    return result


async def wanted(ws: Workspace, op: Operation, turn: Turn, *, why: str, left_only: bool = False) -> dict[str, Any]:
    """`back_up`, known to the next agent until it is done or given up. Where the server is away it stays wanted."""
    ws.whole()
    ws.note(backing_up=why, backup_at=int(time.time()) if not left_only else ws.record.backup_at)
    try:
        result = await back_up(ws, op, turn, left_only=left_only)
    except (UnreachableError, TimedOutError, AgentEndsError):
        raise
    except TwofoldError:
        ws.note(backing_up="")
        raise
    ws.note(backing_up="")
    return result


def due(ws: Workspace, now: int, *, metered: bool) -> bool:
    """Whether the policy wants a back up by itself now: so long after the last one began, unless it was put off, or the network
    is paid for by volume."""
    if ws.lease is None or ws.wrong is not None or ws.record.taken or ws.record.leaving:
        return False
    policy, record = ws.lease.policy, ws.record
    if not policy.replicate_seconds or (metered and not policy.replicate_metered):
        return False
    return now >= max(record.backup_at + policy.replicate_seconds, record.deferred_until)


def defer(ws: Workspace) -> int:
    """Put backing up by itself off; returns until when (Unix seconds).

    Raises:
        RefusedError: the company does not let the person do that.
    """
    lease, _ = ws.whole()
    if not lease.policy.defer:
        raise RefusedError(
            f"Your company does not let the back up of {ws.title} be put off.", safe="Nothing was changed."
        )
    until = int(time.time()) + DEFER_SECONDS
    ws.note(deferred_until=until)
    return until


async def back_up(ws: Workspace, op: Operation, turn: Turn, *, left_only: bool = False) -> dict[str, Any]:
    """Send what the server lacks of the present state of the disks. `left_only`: what a former try left is enough, where it left
    something.

    Raises:
        UnreachableError, TimedOutError: the server went away; what arrived stays there, and the next try goes on.
        ConflictError: the server's newest generation is one that this device does not know.
    """
    began = time.monotonic()
    op.progress("asking the server", 0, 0)
    past = await asyncio.to_thread(lambda: Past(ws.rooms.remote()))
    result: dict[str, Any] = {}
    async with turn:
        left = await asyncio.to_thread(_left, ws)
    if left:
        result = await _point(ws, op, past, turn, left)
    if not left or not left_only:
        result = await _point(ws, op, past, turn, 0)
    return result | {"seconds": round(time.monotonic() - began, 3)}


async def _point(ws: Workspace, op: Operation, past: Past, turn: Turn, generation: int) -> dict[str, Any]:
    """One point in time: that generation, or a new one, also where the cleaner was quicker."""
    for attempt in range(_TRIES):
        async with turn:
            lease, _ = ws.whole()
            number, frozen = generation if attempt == 0 else 0, False
            if ws.vault is not None and not number:
                number, frozen = await _frozen(ws, op)
            try:
                manifest = await asyncio.to_thread(_manifest, ws, op, base(ws, lease), number)
            except (NotFoundError, GoneError):
                continue
        try:
            result = await asyncio.to_thread(_Sending(ws, op, past, manifest).run)
            _told(ws, result)
            return result | {"frozen": frozen}
        except GoneError as gone:
            log.info("the cleaner was quicker: %s", gone, extra={"workspace": ws.name})
    raise ConflictError(
        f"The store of {ws.title} was rewritten each time before it was sent.",
        safe="Nothing is lost; it is on this disk.",
        next="Try again when less is written in it.",
    )


def _told(ws: Workspace, result: dict[str, Any]) -> None:
    if result["kind"] == BRANCH:
        ws.fail(branched(ws.title))
    else:
        ws.note(on_server_at=result["time"], verified=result["generation"])


def branched(title: str) -> ConflictError:
    return ConflictError(
        f"Your company gave {title} to another device while this one was away; what was backed up from here is kept beside it.",
        safe="Nothing was lost and nothing was mixed: your administrator can list what this device wrote, and restore it.",
        next="Tell your administrator if you need what is only here.",
    )


async def _frozen(ws: Workspace, op: Operation) -> tuple[int, bool]:
    """Commit while the guest's file systems stand still, if its agent can do that; as after a power cut otherwise. Says which."""
    vault, guest = ws.vault, ws.guest
    assert vault is not None
    op.progress("taking a point in time", 0, 0)
    frozen = False
    await asyncio.to_thread(_sweep, vault)
    if guest is not None and guest.up:
        with suppress(TwofoldError):
            await guest.call("freeze", seconds=FROZEN)
            frozen = True
    try:
        return (await asyncio.to_thread(vault.commit, NOTE)).number, frozen
    finally:
        if frozen and guest is not None:
            with suppress(TwofoldError):  # it thaws by itself
                await guest.call("thaw")


def _sweep(vault: Generations) -> None:
    with suppress(TwofoldError):  # it only saves the way
        vault.sweep()


def _left(ws: Workspace) -> int:
    """A generation that was to be backed up and is not known to be on the server; 0 for none. Older ones are let go."""
    lease, _ = ws.whole()
    kept = base(ws, lease).kept
    with at_hand(ws) as vault:
        noted = [each.number for each in vault.generations() if each.note == NOTE]
        sent = kept.content.generation if kept is not None else 0
        for number in noted:
            if number < max(noted[-1], sent) and number != sent:
                vault.forget(number)
    return noted[-1] if noted and noted[-1] > sent else 0


def _signer(ws: Workspace) -> str:
    return ws.rooms.identity.verify_key.public.hex()


def _manifest(ws: Workspace, op: Operation, onto: Base, number: int) -> Manifest:
    """
    Raises:
        NotFoundError, GoneError: there is no such generation any more.
    """
    _, image = ws.whole()
    known = onto.kept.content.files if onto.kept is not None else ()
    with at_hand(ws) as vault:
        if not number:
            _sweep(vault)
            number = vault.commit(NOTE).number
        contents = _contents(vault, number, known, op)
    if contents.epoch < epochs.least(ws):
        raise GoneError("It is of another holder, or of before a new key.")
    # The note is for this device alone.
    told = dataclasses.replace(contents, note="")
    return told.manifest(workspace=ws.name, signer=_signer(ws), parent=onto.content, image=image)


def _contents(vault: Generations, number: int, known: tuple[SealedFile, ...], op: Operation) -> Contents:
    try:
        with vault.reading(number, known=known, progress=op.progress) as reading:
            return reading.contents
    except ConflictError as rewritten:
        raise GoneError(rewritten.happened) from rewritten


class _Sending:
    """One generation on its way. While the disks are open their cleaner leaves its files alone; while they are not nobody
    rewrites anything."""

    def __init__(self, ws: Workspace, op: Operation, past: Past, manifest: Manifest) -> None:
        self._ws, self._op, self._past, self._manifest = ws, op, past, manifest
        self._holding = holding(ws)
        self._keys = b""
        self._done = self._total = 0
        self._moved = time.monotonic()

    def run(self) -> dict[str, Any]:
        ws, manifest = self._ws, self._manifest
        self._op.whole = manifest.length
        with ExitStack() as pins:
            vault = ws.vault
            if vault is not None:
                try:
                    pins.enter_context(vault.reading(manifest.generation, known=manifest.files))
                except ConflictError as rewritten:
                    raise GoneError(rewritten.happened) from rewritten
            sent = self._send()
            kind = self._commit()
        return {
            "id": self._manifest.id,
            "kind": kind,
            "generation": manifest.generation,
            "time": manifest.time,
            "files": len(manifest.files),
            "bytes": manifest.length,
            "sent_files": sent.files,
            "sent_bytes": sent.bytes,
        }

    def _send(self) -> Sent:
        """All files that the server lacks. One that goes away for a while, or still holds what a cut left, is asked again."""
        files = {file.digest: file for file in self._manifest.files}
        began, went = 0, set[str]()
        while True:
            try:
                lacking = self._past.missing(self._holding, list(files.values()))
                went |= lacking.keys()
                left = sum(files[digest].length - have for digest, have in lacking.items())
                self._total = self._done + left
                self._op.progress("sending", self._done, self._total)
                for digest, have in lacking.items():
                    self._put(files[digest], have)
                return Sent(len(went), self._done - began)
            except (UnreachableError, TimedOutError, ConflictError) as away:
                self._wait(away)

    def _wait(self, away: TwofoldError) -> None:
        if time.monotonic() - self._moved > PATIENCE:
            raise away
        log.info("sending waits: %s", away.code, extra={"workspace": self._ws.name})
        self._op.progress("waiting for the server", self._done, self._total)
        time.sleep(_AGAIN)

    def _put(self, file: SealedFile, have: int) -> None:
        before = self._done

        def told(sent: int) -> None:
            self._done = before + sent
            self._op.progress("sending", self._done, self._total)  # may last, where it is paused
            self._moved = time.monotonic()

        try:
            self._past.put(self._holding, file, self._ws.folder / VAULT / file.name, have, told)
        except BadInputError as off:
            raise DamagedError(
                f"A file of the sealed store of {self._ws.title} is not what it was ({file.name}); the server did not take it.",
                safe="What was backed up before is safe on the server.",
                next=f"See what is damaged:  twofold disk verify {self._ws.name}",
            ) from off

    def _commit(self) -> str:
        ws, identity = self._ws, self._ws.rooms.identity
        lease, _ = ws.whole()
        onto, tries = base(ws, lease), 0
        self._keys = self._keys or sharing.keys(ws)
        self._moved = time.monotonic()
        while tries < _TRIES:
            self._op.progress("committing", self._done, self._total)
            signed = sign(Context.GENERATION, self._manifest.to_wire(), identity.signing)
            try:
                try:
                    kind = self._past.commit(self._holding, onto.head, signed, self._keys)
                except ConflictError as other:
                    tries += 1
                    onto = self._look(onto, other)
                    continue
            except (UnreachableError, TimedOutError) as away:
                self._wait(away)  # twice is once: an answer that was lost is given again
                continue
            head = onto.head if kind == BRANCH else self._manifest.id
            Kept(head, self._manifest, kind).save(ws.folder)
            return kind
        raise ConflictError(
            f"The server's newest back up of {ws.title} changed each time this one was about to follow it.",
            safe="What was sent is kept there; nothing was replaced.",
            next="Try again.",
        )

    def _look(self, onto: Base, refused: ConflictError) -> Base:
        """The server's newest generation is not the one that we know: it may be ours, whose answer was lost."""
        ws = self._ws
        rows = [row for row in self._past.listed(ws.name) if row.get("kind") != BRANCH]
        followed = {row.get("parent") for row in rows}
        head = next((str(row.get("id")) for row in rows if row.get("id") not in followed), "")
        if head == onto.head:
            self._send()  # it lacks files after all
            return onto
        row = next((row for row in rows if row.get("id") == head), {})
        try:
            key = ws.rooms.identity.verify_key
            found = Manifest.from_wire(verify(Context.GENERATION, self._past.document(ws.name, head), [key]))
        except (RefusedError, BadInputError):
            found = None
        ours = found is not None and found.id == head and found.vault == self._manifest.vault
        if found is None or not ours or found.generation >= self._manifest.generation:
            who = str(row.get("device_name") or "the company")[:60]
            raise ConflictError(
                f"The newest back up of {ws.title} on the server is not this device's: it is of {who}.",
                safe="Nothing was replaced there, and nothing was changed here.",
                next="Ask your administrator which of the two goes on.",
            ) from refused
        kept = Kept(head, found)
        kept.save(ws.folder)
        self._manifest = replace(self._manifest, parent=found.id)
        return Base(head, found.id, kept)
