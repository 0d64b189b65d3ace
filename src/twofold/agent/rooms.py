"""The rooms the agent stands on, each opened when first needed: an idle agent holds none of their libraries."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twofold.engine.seam import Engine
from twofold.model.errors import DamagedError, TwofoldError
from twofold.model.generation import SealedFile
from twofold.model.image import Arch
from twofold.model.lease import Lease
from twofold.platform.dirs import Dirs
from twofold.vault.seam import Vault

if TYPE_CHECKING:
    from twofold.agent.enrolment import Enrolment
    from twofold.agent.remote import Remote
    from twofold.trust.device import Identity

log = logging.getLogger(__name__)
ENROLMENT = Path("device/enrolment.json")


class Rooms:
    """Blocking calls; the agent makes them in threads where they touch a disk or the network."""

    def __init__(self, dirs: Dirs) -> None:
        self._dirs = dirs
        self._remote: Remote | None = None

    @functools.cached_property
    def arch(self) -> Arch:
        """What the guests are that run here: of a published version the device takes what is for these."""
        from twofold.engine.probe import native

        return native() or Arch.AMD64

    @functools.cached_property
    def engine(self) -> Engine:
        from twofold.engine.hosted import HostedEngine

        return HostedEngine(self._dirs.cache, self.arch)

    @functools.cached_property
    def vault(self) -> Vault:
        from twofold.vault.store import SealedVault

        return SealedVault(self._dirs.state / "device", self._dirs.state / "anchors", self._elsewhere)

    def _elsewhere(self, workspace: str, file: SealedFile, offset: int, length: int) -> bytes:
        from twofold.agent.past import Past

        return Past(self.remote()).read(workspace, file, offset, length)

    @functools.cached_property
    def identity(self) -> Identity:
        """This device's signing key, made when first asked for."""
        from twofold.trust.device import identity

        return identity(self._dirs.state)

    def remote(self) -> Remote:
        """Raises: NotFoundError: this device is not enrolled."""
        if self._remote is None:
            from twofold.agent.enrolment import Enrolment
            from twofold.agent.remote import Remote

            seen = self._dirs.state / "device" / "images"
            self._remote = Remote(Enrolment.load(self._dirs.state / ENROLMENT), self.identity, seen, self.arch)
        return self._remote

    def enrolled(self) -> bool:
        return (self._dirs.state / ENROLMENT).exists()

    def is_node(self) -> bool:
        """Whether it was enrolled as a node. Raises: DamagedError."""
        return self.enrolled() and self.remote().enrolment.kind == "node"

    def enrol(self, untrusted_url: str, name: str) -> Enrolment:
        from twofold.agent.enrolment import enrol

        enrolment = enrol(untrusted_url, name, self.identity, self.vault.device_key())
        enrolment.save(self._dirs.state / ENROLMENT)
        former, self._remote = self._remote, None
        if former is not None:
            former.close()
        try:
            self.vouch()
        except TwofoldError as away:  # with the next heartbeat
            log.info("the server was not told of this machine's key: %s", away.code)
        return enrolment

    def server(self) -> str:
        """The public key (hex) by which this device knows its company's server. Raises: NotFoundError: it is not enrolled."""
        return self.remote().enrolment.server_key.public.hex()

    def vouch(self) -> None:
        """Say which wrapping key is this machine's, in a way that others can check, where the server passes that on."""
        remote = self.remote()
        if remote.online():
            remote.vouch(self.vault.device_key())

    def lease(self, untrusted_document: bytes) -> Lease:
        """A kept lease, verified again: the pinned server's, for this device."""
        try:
            document = json.loads(untrusted_document)
        except ValueError as wrong:
            raise DamagedError("The workspace's lease cannot be read.", safe="Its disks were not touched.") from wrong
        return self.remote().lease(document).lease


RoomsFactory = Callable[[Dirs], Rooms]


async def give_back(rooms: Rooms, name: str) -> None:
    try:
        await asyncio.to_thread(rooms.remote().checkin, name)
    except TwofoldError as away:
        # This device still holds the lease, and asking again gives it again: nothing is lost by leaving it.
        log.info("the lease was not given back: %s", away.code, extra={"workspace": name})
