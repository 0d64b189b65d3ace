"""The server's folder, mode 0700:

server.json         company, the names it answers to, the database's and the store's URL where they lie elsewhere, the quota
server.db           SQLite (WAL)
objects/            sealed chunks and vaults' files (`server.objects`)
uploads/            what is on its way into objects
signing.pem         signs leases; its public half is pinned by devices
authority.der|.key  the authority that devices pin
tls.crt|.key        the certificate under it, renewed at start
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twofold.model.canonical import canonical
from twofold.model.errors import ConflictError, DamagedError, NotFoundError
from twofold.model.names import title
from twofold.platform.dirs import private
from twofold.server.certificates import ensure_certificate, make_authority
from twofold.trust.https import pin, place
from twofold.trust.keys import SigningKey, write_private

QUOTA_PERCENT = 400
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Home:
    """`names` are the host names and addresses that the server answers to; any other Host header is refused. `database` and
    `objects` are places in the folder, or URLs (`server.database.locate`, `server.objects.opened`). `quota_percent`: of its
    image's disks, what one workspace may keep (`server.quotas`); 0: anything."""

    folder: Path
    company: str
    names: tuple[str, ...]
    signing: SigningKey
    database: Path | str
    objects: Path | str
    quota_percent: int = QUOTA_PERCENT

    @property
    def uploads(self) -> Path:
        return self.folder / "uploads"

    @property
    def authority(self) -> bytes:
        return (self.folder / "authority.der").read_bytes()

    @property
    def pin(self) -> str:
        return pin(self.authority)


def make(folder: Path, company: str, names: Sequence[str] = (), database: str = "", objects: str = "") -> Home:
    """Make a server's folder. The configuration is written last: without it there is no server, and `make` may be called again.

    Raises:
        ConflictError: there is a server in it already.
        BadInputError: a name is no host name or address.
    """
    if (private(folder) / "server.json").exists():
        raise ConflictError(f"There is a server in {folder} already.", safe="Nothing was changed.")
    own = [name for name in (socket.gethostname().lower(),) if "_" not in name]
    answered = tuple(dict.fromkeys(place(_url(name)).host for name in (*LOOPBACK, *own, *names)))
    shown = title(company, "a company's name")
    for name in ("objects", "uploads"):
        private(folder / name)
    SigningKey.make().save(folder / "signing.pem")
    make_authority(folder, shown)
    ensure_certificate(folder, answered)
    elsewhere = {name: url for name, url in (("database", database), ("objects", objects)) if url}
    written = {"schema": 1, "company": shown, "names": list(answered)} | elsewhere
    write_private(folder / "server.json", canonical(written))
    return load(folder)


def load(folder: Path) -> Home:
    """
    Raises:
        NotFoundError: there is no server in `folder`. DamagedError: its files are not what was written.
        RefusedError: the folder is open to other users of this machine.
    """
    if not (folder / "server.json").exists():
        raise NotFoundError(f"There is no server in {folder}.", next=f"Make one:  twofold server init --home {folder}")
    private(folder)
    try:
        held = json.loads((folder / "server.json").read_bytes())
        company, names = title(held["company"], "a company's name"), tuple(map(str, held["names"]))
        database, objects = (str(held.get(name, "")) for name in ("database", "objects"))
        quota = held.get("quota_percent", QUOTA_PERCENT)
        if type(quota) is not int or not 0 <= quota <= 1_000_000:
            raise ValueError("the quota is no percentage")
    except (ValueError, KeyError, TypeError) as off:
        raise DamagedError(f"{folder / 'server.json'} cannot be read.", next="Restore it from a copy.") from off
    private(folder / "uploads")
    return Home(
        folder,
        company,
        names,
        SigningKey.load(folder / "signing.pem"),
        database or folder / "server.db",
        objects or folder / "objects",
        quota,
    )


def _url(name: str) -> str:
    return f"https://[{name}]" if ":" in name else f"https://{name}"
