"""The agent's client of the server: synchronous, standard library, called in threads. Everything it returns has been verified."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from twofold.agent.enrolment import Enrolment
from twofold.engine.probe import native
from twofold.image.chunks import MAX_STORED, ImageIndex
from twofold.image.sealed import unseal
from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, NotFoundError, RefusedError
from twofold.model.image import Arch
from twofold.model.lease import Lease
from twofold.model.names import colour, slug, title
from twofold.model.release import STABLE, Release, allowed, none_for
from twofold.platform.clock import boottime
from twofold.trust import https, request
from twofold.trust.device import Identity
from twofold.trust.publisher import Anchor
from twofold.trust.signed import Context, verify
from twofold.trust.updater import refresh
from twofold.trust.vouch import DEVICE, NODE, vouch

EXTENSION, EPOCHS, ONLINE = "generations-1", "epochs-1", "online-1"
ARCHITECTURES, CHANNELS = "architectures-1", "channels-1"


@dataclass(frozen=True)
class Grant:
    """A workspace this device's user may check out. `bytes` is the download without what is cached already."""

    workspace: str
    title: str
    colour: str
    image: str
    version: int
    bytes: int


@dataclass(frozen=True)
class SignedLease:
    """`document` is what the server signed, to be kept and verified again at each start; `lease` is what it says. `begin` is what
    a check-out goes on from, not verified: `keys`, and the documents `head` and `content`; None where it begins anew. `channel`
    is what the grant follows: which of the publisher's releases the server may choose from."""

    document: dict[str, Any]
    lease: Lease
    begin: dict[str, Any] = field(default_factory=dict, compare=False)
    channel: str = STABLE


@dataclass(frozen=True)
class Coming:
    """A node has it, and is asked for it: `request` is what to wait for, `place` the node's name."""

    request: int
    place: str


@dataclass(frozen=True)
class Command:
    """What an administrator asks of this device, signed by the server; done once, however often it is given out."""

    number: int
    workspace: str
    token: int
    verb: str
    by: str
    version: int = 0


@dataclass(frozen=True)
class Beat:
    """The answer to a heartbeat. A lease that is not among `leases` has been lost. `time` is the server's, 0 where it has no
    generations."""

    leases: tuple[SignedLease, ...]
    commands: tuple[Command, ...] = ()
    time: int = 0


class Remote:
    """The server as this device sees it. Every method may raise RefusedError (the server says no, or its certificate is not
    the pinned one), UnreachableError, TimedOutError, and BadInputError (what it sent is malformed)."""

    def __init__(self, enrolment: Enrolment, identity: Identity, seen: Path, arch: Arch | None = None) -> None:
        """`seen` is the folder that keeps what this device has seen of images (`trust.updater`); `arch` is that of the guests
        which it runs, by default this machine's own."""
        self.arch = arch or native() or Arch.AMD64
        self.enrolment = enrolment
        self._identity = identity
        self._seen, self._one = seen, threading.Lock()
        self._client = https.pinned(enrolment.place, enrolment.authority)
        self._extensions: frozenset[str] = frozenset()
        self._listed: tuple[float, tuple[Release, ...]] = 0.0, ()

    @property
    def identity(self) -> Identity:
        return self._identity

    def close(self) -> None:
        """Close idle connections. The object can be used again."""
        self._client.close()

    def speaks(self) -> bool:
        """Whether the server has generations (docs/protocol.md, chapter 3); asked again while it has not."""
        return EXTENSION in self._known()

    def online(self) -> bool:
        """Whether it has nodes."""
        return ONLINE in self._known()

    def _channels(self) -> list[str]:
        return [CHANNELS] if CHANNELS in self._known() else []

    def _known(self) -> frozenset[str]:
        if EXTENSION not in self._extensions:
            try:
                found = self.call("GET", "device/hello").get("extensions")
            except NotFoundError:
                return frozenset()
            self._extensions = frozenset(map(str, found)) if isinstance(found, list) else frozenset()
        return self._extensions

    def anchor(self) -> Anchor:
        """What an invitation of this company carries for the device alone."""
        return Anchor(hashlib.sha256(self.enrolment.root).hexdigest(), self.enrolment.reading)

    def vouch(self, wrap_public: bytes) -> None:
        """Tell the server, for others to check, that `wrap_public` is this machine's (`trust.vouch`)."""
        kind = self.enrolment.kind
        if kind in (DEVICE, NODE):
            user, wrap = self.enrolment.user if kind == DEVICE else "", wrap_public.hex()
            said = vouch(self.enrolment.reading, kind, user, self._identity.device, wrap)
            self.call("POST", "device/vouch", {"vouch": said})

    def machines(self) -> list[dict[str, Any]]:
        """The user's devices and the company's nodes, as the server says; not verified."""
        rows = self.call("GET", "device/devices").get("devices")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadInputError("The server's list of devices cannot be read.")
        return rows

    def grants(self) -> tuple[Grant, ...]:
        """What this device's user may check out."""
        query = f"?arch={self.arch}" if ARCHITECTURES in self._known() else ""
        rows = self.call("GET", f"device/grants{query}").get("grants")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise BadInputError("The server's list of workspaces cannot be read.")
        return tuple(_grant(row) for row in rows)

    def checkout(self, workspace: str) -> SignedLease:
        """Take the lease of a workspace, or get it again where this device holds it already.

        Raises:
            NotFoundError: no such grant. ConflictError: another device holds it, or a node; nothing was changed.
        """
        found = self._checkout(workspace, {"speaks": [EXTENSION, EPOCHS, *self._channels()]} if self.speaks() else {})
        assert isinstance(found, SignedLease)  # who does not wait is told no
        return found

    def wanted(self, workspace: str, request: int) -> SignedLease | Coming:
        """As `checkout`; where a node has it, that is asked to give it back, and this is to be asked again with the `request` of
        the answer, 0 at first."""
        if not self.online():
            return self.checkout(workspace)
        return self._checkout(workspace, {"speaks": [EXTENSION, EPOCHS, ONLINE, *self._channels()], "request": request})

    def _checkout(self, workspace: str, speaks: dict[str, Any]) -> SignedLease | Coming:
        mine = {"arch": str(self.arch)} if ARCHITECTURES in self._known() else {}
        answer = self.call("POST", "device/checkout", {"workspace": slug(workspace, "a workspace")} | mine | speaks)
        if "coming" in answer and ONLINE in speaks.get("speaks", ()):
            try:
                return Coming(int(answer["coming"]["request"]), title(answer["coming"]["place"], "a node"))
            except (KeyError, TypeError, ValueError) as off:
                raise BadInputError("The server's answer to the check-out cannot be read.") from off
        signed = self.lease(answer.get("lease"), workspace)
        begin = {name: answer.get(name) for name in ("keys", "head", "content")}
        return replace(signed, begin=begin, channel=slug(str(answer.get("channel", STABLE)), "a channel"))

    def heartbeat(self, told: Sequence[dict[str, Any]] = (), receipts: Sequence[dict[str, Any]] = ()) -> Beat:
        """Every lease this device holds, signed afresh with the policy of now; one that is missing has been taken away. `told`
        and `receipts` are as in docs/protocol.md, *Heartbeat*."""
        if not self.speaks():
            rows = self.call("POST", "device/heartbeat", {}).get("leases")
            return Beat(tuple(self.lease(row) for row in _rows(rows)))
        body = {"speaks": [EXTENSION, EPOCHS], "workspaces": list(told), "receipts": list(receipts)}
        answer = self.call("POST", "device/heartbeat", body)
        return Beat(
            leases=tuple(self.lease(row) for row in _rows(answer.get("leases"))),
            commands=tuple(self._command(row) for row in _rows(answer.get("commands"))),
            time=answer["time"] if type(answer.get("time")) is int else 0,
        )

    def wait(self, seconds: int, since: int) -> bool:
        """Until there is a reason for a heartbeat, at most `seconds` (50); `since` is the `time` of the last one."""
        answer = self.call("POST", "device/wait", {"seconds": seconds, "since": since}, patience=seconds + 15)
        return answer.get("news") is True

    def _command(self, untrusted_document: object) -> Command:
        said = verify(Context.COMMAND, untrusted_document, [self.enrolment.server_key])
        try:
            if said["schema"] != "twofold-command-1" or said["device"] != self._identity.device:
                raise RefusedError("This request is another device's.", safe="It was not followed.")
            numbers, text = (said["command"], said["token"]), (said["verb"], said["by"])
            if not all(type(each) is int for each in numbers) or not all(type(each) is str for each in text):
                raise ValueError("another type")
            return Command(
                said["command"], slug(said["workspace"], "a workspace"), said["token"], said["verb"], said["by"][:60],
                int(said.get("version", 0)),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as off:
            raise BadInputError("The server's request cannot be read.", safe="It was not followed.") from off

    def checkin(self, workspace: str) -> None:
        """Give the lease back; the server's copy is current again. Doing it twice is doing it once."""
        self.call("POST", "device/checkin", {"workspace": slug(workspace, "a workspace")})

    def lease(self, untrusted_document: object, workspace: str | None = None) -> SignedLease:
        """Verify a signed lease, fresh or kept: the pinned server signed it, for this device (and this workspace).

        Raises:
            RefusedError: forged, or another device's or workspace's.
        """
        lease = Lease.from_wire(verify(Context.LEASE, untrusted_document, [self.enrolment.server_key]))
        if lease.device != self._identity.device or workspace not in (None, lease.workspace):
            raise RefusedError("This lease belongs to another device or workspace.", safe="It was not used.")
        assert isinstance(untrusted_document, dict)  # `verify` took it
        return SignedLease(untrusted_document, lease)

    def releases(self, *, age: float = 0) -> tuple[Release, ...]:
        """What the publisher's newest targets list, verified from the pinned root on; what was listed no more than `age` seconds
        ago will do.

        Raises:
            RefusedError: forged, expired, or older than what this device has seen.
        """
        with self._one:
            at, listed = self._listed
            if not listed or boottime() - at > age:
                at, listed = boottime(), refresh(self._seen, self.enrolment.root, self)
                self._listed = at, listed
            return listed

    def metadata(self, name: str, limit: int) -> bytes:
        """A document of python-tuf's roles; not verified here."""
        return self.send("GET", f"device/roles/{name}", b"", limit)

    def index(
        self,
        image: str,
        version: int,
        arch: Arch | None = None,
        *,
        channel: str = STABLE,
        held: bool = False,
        given_out: bool = False,
        age: float = 0,
    ) -> ImageIndex:
        """The image's index for `arch` (by default this device's), as the publisher's newest targets name it: this version is on
        `channel` or on stable; or on some channel (`given_out`), where an administrator chose it; or, where the workspace on it
        is `held` here already, at least not retired. `age` as in `releases`.

        Raises:
            RefusedError: the publisher does not say so. ConflictError: the version has nothing for this architecture.
            NotFoundError: this device holds no lease on it.
        """
        wanted = arch or self.arch

        def fitting(listed: tuple[Release, ...]) -> list[Release]:
            some = [each for each in listed if each.channels] if given_out else listed
            some = some if held or given_out else allowed(listed, image, channel)
            return [each for each in some if each.path == f"{image}/{version}"]

        fit = fitting(self.releases(age=age))
        if age and not fit:
            fit = fitting(self.releases())  # it may have been promoted since
        if not fit:
            raise RefusedError(
                f"Your company does not give out version {version} of {image}; the server does.",
                safe="It was not used.",
                next="Tell your administrator: the server is out of order or not honest.",
            )
        found = fit[0].variant(wanted)
        if found is None:
            raise none_for(image, version, wanted, fit[0].archs)
        query = f"?arch={wanted}" if fit[0].arch not in (wanted, "") else ""
        untrusted_sealed = self.send(
            "GET", f"device/images/{slug(image, 'an image')}/{int(version)}{query}", b"", found.length
        )
        if len(untrusted_sealed) != found.length or hashlib.sha256(untrusted_sealed).hexdigest() != found.sha256:
            raise RefusedError(
                f"What the server sent is not version {version} of {image} for {wanted}.",
                safe="It was not used.",
                next="Try again; if it stays so, tell your administrator.",
            )
        index = unseal(untrusted_sealed, self.enrolment.reading, image, version)
        if index.manifest.arch is not wanted:
            raise none_for(image, version, wanted, [index.manifest.arch])
        return index

    def started(self, image: str, version: int, *, good: bool) -> None:
        """Tell how a start went: a roll-out stops when too many fail."""
        self.call("POST", "device/starts", {"image": image, "version": version, "good": good})

    def chunk(self, chunk: bytes) -> bytes:
        """One sealed chunk by its id (32 bytes). Not verified here: the cache does that when it takes it in."""
        return self.send("GET", f"device/chunks/{chunk.hex()}", b"", MAX_STORED)

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        """Many sealed chunks as frames (`twofold._core.store_frames` reads and verifies them); at most 256 at once."""
        body = canonical({"ids": [chunk.hex() for chunk in ids]})
        return self.send("POST", "device/chunks", body, len(ids) * (MAX_STORED + 36))

    def call(
        self,
        method: str,
        what: str,
        body: dict[str, Any] | None = None,
        limit: int = 8 << 20,
        patience: float | None = None,
    ) -> dict[str, Any]:
        """One signed request with JSON both ways; `patience` in seconds where the answer may take longer than usual."""
        answer = self.send(method, what, b"" if body is None else canonical(body), limit, patience=patience)
        return https.Answer(200, answer).json()

    def send(
        self,
        method: str,
        what: str,
        body: bytes,
        limit: int,
        headers: Mapping[str, str] | None = None,
        patience: float | None = None,
    ) -> bytes:
        """One signed request; not verified is what comes back."""
        path = f"{https.API}/{what}"
        proof = request.headers(self._identity.signing, self.enrolment.server_key.id, method, path, body)
        kind = {"Content-Type": "application/json"} if body else {}
        return self._client.request(method, path, body, kind | proof | dict(headers or {}), limit, patience).body

    def stream(self, what: str, parts: Callable[[], Iterable[bytes]], length: int) -> dict[str, Any]:
        """PUT `length` bytes, which `parts` makes anew for each try. The signature covers an empty body: the path names the
        digest."""
        path = f"{https.API}/{what}"
        proof = request.headers(self._identity.signing, self.enrolment.server_key.id, "PUT", path, b"")
        kind = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        return self._client.request("PUT", path, parts, kind | proof, 65536).json()


def _rows(untrusted_rows: object) -> list[object]:
    if not isinstance(untrusted_rows, list):
        raise BadInputError("The server's answer to the heartbeat cannot be read.")
    return untrusted_rows


def _grant(untrusted_row: dict[str, Any]) -> Grant:
    text: Iterable[object] = (untrusted_row.get(name) for name in ("workspace", "title", "colour", "image"))
    counts = (untrusted_row.get("version"), untrusted_row.get("bytes"))
    if not all(type(value) is str for value in text) or not all(type(value) is int and value >= 0 for value in counts):
        raise BadInputError("The server's list of workspaces cannot be read.")
    return Grant(
        workspace=slug(untrusted_row["workspace"], "a workspace"),
        title=title(untrusted_row["title"], "a workspace's name"),
        colour=colour(untrusted_row["colour"]),
        image=slug(untrusted_row["image"], "an image"),
        version=untrusted_row["version"],
        bytes=untrusted_row["bytes"],
    )
