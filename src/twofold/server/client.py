"""The administrator's client of the server, for the CLI: synchronous, standard library. Errors are what the server says."""

from __future__ import annotations

import base64
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twofold.image.catalogue import Catalogue
from twofold.image.chunks import MAX_STORED
from twofold.image.publish import Built, Noted, Published, extend, publish
from twofold.model.canonical import canonical
from twofold.model.errors import MissingError, TimedOutError, UnreachableError
from twofold.model.policy import Policy
from twofold.model.progress import Progress, silent
from twofold.model.release import EVERYBODY, MAX_INDEX, STABLE
from twofold.server.client_workspaces import Workspaces
from twofold.trust import https
from twofold.trust.https import Invitation, Place
from twofold.trust.publisher import Anchor, Publisher


@dataclass(frozen=True)
class Image:
    """An image as the server lists it: its newest version, that version's sealed bytes, when it was published (Unix seconds), and
    the architectures that it was built for."""

    name: str
    version: int
    bytes: int
    published: int
    architectures: tuple[str, ...]


class Admin(Workspaces):
    """The server as an administrator sees it. `pin` is the hex SHA-256 of the server's authority (`twofold.server.home.pin`,
    also in every invitation); `token` comes from `login` or from a former login.

    Every method may raise RefusedError (not signed in, not allowed, another server), UnreachableError and TimedOutError.
    """

    def __init__(self, url: str, pin: str, token: str = "") -> None:
        self.place: Place = https.place(url)
        self.pin = pin
        self.token = token
        self._client: https.Https | None = None
        self._anchor: Anchor | None = None

    def wait_ready(self, seconds: float = 15) -> None:
        """Wait until the server answers.

        Raises:
            TimedOutError: it does not. RefusedError: another server answers.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                self._connect()
                return
            except (UnreachableError, TimedOutError) as away:
                if time.monotonic() > end:
                    late = f"The server did not answer within {seconds:g} s."
                    raise TimedOutError(late, next="Look at the server's log.") from away
                time.sleep(0.05)

    def login(self, user: str, password: str) -> str:
        """Sign in; the token is kept in this object and returned. It ends after 30 days or at `logout`."""
        self.token = str(self._call("POST", "login", {"user": user, "password": password})["token"])
        return self.token

    def logout(self) -> None:
        """End the token."""
        self._call("POST", "logout", {})
        self.token = ""

    def whoami(self) -> dict[str, Any]:
        """`{"user", "admin"}`"""
        return self._call("GET", "whoami")

    def create_user(self, name: str, password: str, *, admin: bool = False) -> None:
        """
        Raises:
            ConflictError: there is such a user. BadInputError: the name is no slug, or the password under 12 characters.
        """
        self._call("POST", "users", {"name": name, "password": password, "admin": admin})

    def list_users(self) -> list[dict[str, Any]]:
        """`[{"name", "admin", "created"}]`"""
        return self._rows("users")

    def add_publisher(self, publisher: Publisher) -> Anchor:
        """Agree with the server on the company's root, which it gets here if it has none; invitations carry it from now on."""
        self._anchor = Catalogue(publisher, self).anchor
        return self._anchor

    def list_publishers(self) -> list[dict[str, Any]]:
        """`[{"key", "public", "created"}]`"""
        return self._rows("publishers")

    def publish_image(
        self,
        built: Built,
        publisher: Publisher,
        progress: Progress = silent,
        share: int = EVERYBODY,
        first_boot: object = None,
        also: Sequence[Noted] = (),
    ) -> Published:
        """Cut, seal and upload what the server lacks, then commit the next version, for `share` percent of the devices; `also`
        are builds for further architectures. An image whose parts are those of the newest version is that version: nothing is
        committed, unless `first_boot` is another."""
        return publish([(built, first_boot), *also], publisher, self, progress, share)

    def extend_image(
        self,
        built: Built,
        version: int,
        publisher: Publisher,
        progress: Progress = silent,
        first_boot: object = None,
    ) -> Published:
        """Add a build for another architecture to a version that nobody runs yet."""
        return extend(built, first_boot, publisher, self, version, progress)

    def list_versions(self, image: str) -> list[dict[str, Any]]:
        """`[{"version", "published", "bytes", "channels", "retired", "halted", "why", "started", "failed",
        "architectures"}]`, newest first."""
        rows: list[dict[str, Any]] = self._call("GET", f"images/{_quoted(image)}/versions")["versions"]
        return rows

    def halt(self, image: str, version: int, *, halted: bool = True) -> None:
        """Stop a version's roll-out, or let it go on."""
        self._call("POST", f"images/{_quoted(image)}/versions/{int(version)}/halt", {"halted": halted})

    def list_images(self) -> list[Image]:
        rows = self._rows("images")
        return [
            Image(row["name"], row["version"], row["bytes"], row["published"], tuple(row["architectures"]))
            for row in rows
        ]

    def create_group(self, name: str) -> None:
        """
        Raises:
            ConflictError: there is such a group. BadInputError: the name is no slug.
        """
        self._call("POST", "groups", {"name": name})

    def list_groups(self) -> list[dict[str, Any]]:
        """`[{"name", "created", "members", "grants", "workspaces", "out"}]`: `workspaces` are there by its grants, `out` of
        them on a device."""
        return self._rows("groups")

    def group(self, name: str) -> dict[str, Any]:
        """One group: its row, `people`: `[{"user", "since"}]`, and `given`, its grants."""
        return self._call("GET", f"groups/{_quoted(name)}")

    def delete_group(self, name: str) -> None:
        """End the group's grants and the group."""
        self._call("DELETE", f"groups/{_quoted(name)}")

    def join_group(self, name: str, user: str) -> None:
        """
        Raises:
            NotFoundError: no such group or user. ConflictError: a grant of the group's would give what this user cannot have.
        """
        self._call("PUT", f"groups/{_quoted(name)}/members/{_quoted(user)}", {})

    def leave_group(self, name: str, user: str) -> None:
        """What the user has by this group alone is not renewed any more."""
        self._call("DELETE", f"groups/{_quoted(name)}/members/{_quoted(user)}")

    def add_grant(
        self,
        user: str,
        image: str,
        workspace: str,
        title: str,
        colour: str,
        policy: Policy = Policy(),
        ends: int = 0,
        pool: str = "",
        channel: str = STABLE,
    ) -> int:
        """Let `user` check out `workspace` (a slug, unique per user) from `image`. `ends` in Unix seconds, 0 for never;
        `pool` is the image's name if not given. Where `policy` is at its defaults, wider scopes decide. Returns its number.

        Raises:
            NotFoundError: no such user or image. ConflictError: the user has this workspace, or one of this name or colour.
        """
        body = {"user": user, "image": image, "workspace": workspace, "title": title, "colour": colour, "ends": ends}
        body |= {"policy": policy.said(), "pool": pool} | ({"channel": channel} if channel != STABLE else {})
        return int(self._call("POST", "grants", body)["grant"])

    def grant_group(
        self,
        group: str,
        image: str,
        workspace: str,
        title: str,
        colour: str,
        policy: Policy = Policy(),
        ends: int = 0,
        channel: str = STABLE,
        rank: int = 0,
    ) -> dict[str, Any]:
        """As `add_grant`, to each member of a group. Returns `{"grant", "members", "reached"}`: a member whose workspace of that
        name is there by another grant that comes first is not reached.

        Raises:
            NotFoundError: no such group or image. ConflictError: some member cannot have it.
        """
        body = {"group": group, "image": image, "workspace": workspace, "title": title, "colour": colour, "ends": ends}
        return self._call("POST", "grants", body | {"policy": policy.said(), "channel": channel, "rank": rank})

    def grant(self, number: int) -> dict[str, Any]:
        """One grant; of a group's also `members`: `[{"user", "number", "why"}]`, number 0 where it gives nothing, and why."""
        return self._call("GET", f"grants/{int(number)}")

    def change_grant(self, number: int, channel: str | None = None, rank: int | None = None) -> dict[str, Any]:
        """Have a grant follow another channel, or a group's come before or behind others."""
        said = {"channel": channel, "rank": rank}
        return self._call(
            "PUT", f"grants/{int(number)}", {key: value for key, value in said.items() if value is not None}
        )

    def remove_grant(self, grant: int) -> None:
        """End a grant now. A lease on it is not renewed; what lies on the device is not touched by this."""
        self._call("DELETE", f"grants/{int(grant)}")

    def list_grants(self) -> list[dict[str, Any]]:
        """`[{"grant", "user", "group", "image", "workspace", "title", "colour", "pool", "channel", "rank", "policy", "ends"}]`;
        `user` or `group` is empty."""
        return self._rows("grants")

    def invite_device(self, user: str, hours: int = 24, kind: str = "device") -> str:
        """A new invitation's URL for one device of `user`, or for a node (`kind` is `node`) that `user` answers for; it carries a
        one-time code and the key that opens the company's images, so hand it over like a password.

        Raises:
            MissingError: no publisher's keys were shown to this object (`add_publisher`).
        """
        if self._anchor is None:
            raise MissingError(
                "An invitation carries the company's root of images and the key that opens them; they are not here.",
                next="Invite from the machine that images are published from.",
            )
        body = {"user": user, "hours": hours} | ({"kind": kind} if kind != "device" else {})
        code = str(self._call("POST", "invitations", body)["code"])
        return Invitation(self.place, code, self.pin, self._anchor).url

    def list_devices(self) -> list[dict[str, Any]]:
        """`[{"device", "name", "user", "enrolled", "seen", "revoked", "kind", "wrap_public"}]`; the last is what `backup --for`
        takes, where the administrator is believed in who has it."""
        return self._rows("devices")

    def revoke_device(self, device: str) -> None:
        """Never talk to a device again. Its leases stay where they are until they are broken."""
        self._call("DELETE", f"devices/{urllib.parse.quote(device, safe='')}")

    def list_leases(self) -> list[dict[str, Any]]:
        """`[{"user", "workspace", "custody", "device", "device_name", "token", "image", "version", "issued"}]`"""
        return self._rows("leases")

    def list_audit(self, after: int = 0) -> list[dict[str, Any]]:
        """At most 1000 entries after number `after`: `[{"entry", "at", "actor", "action", "subject", "hash"}]`"""
        return self._rows("audit", f"?after={int(after)}")

    # What `image.publish` asks of a server.

    def newest(self, image: str) -> dict[str, Any]:
        """`{"version", "manifest", "manifests"}` of an image, these by architecture; version 0 where there is none."""
        return self._call("GET", f"images/{urllib.parse.quote(image, safe='')}")

    def index(self, image: str, version: int, arch: str = "") -> bytes:
        """A version's sealed index, that of an architecture or the one that the target's path names."""
        query = f"?arch={_quoted(arch)}" if arch else ""
        return self._request(
            "GET", f"images/{_quoted(image)}/versions/{int(version)}/index{query}", b"", "", limit=MAX_INDEX
        ).body

    def roles(self) -> dict[str, Any]:
        """`{"server", "root", "targets"}`: the server's key for snapshot and timestamp (hex), and documents (base64) or None."""
        return self._call("GET", "roles", limit=16 << 20)

    def new_roles_key(self) -> str:
        """Make the server another key for snapshot and timestamp; returns its public half (hex)."""
        return str(self._call("POST", "roles/key", {})["server"])

    def set_root(self, document: bytes) -> None:
        """The company's first root, or the next one."""
        self._call("POST", "roles/root", {"document": base64.b64encode(document).decode()})

    def set_targets(self, document: bytes) -> None:
        """What is on which channel from now on."""
        self._call("POST", "roles/targets", {"document": base64.b64encode(document).decode()})

    def chunks(self, ids: Sequence[bytes]) -> bytes:
        """Sealed chunks as frames, at most 256; not verified here."""
        body = canonical({"ids": [chunk.hex() for chunk in ids]})
        return self._request("POST", "chunks/read", body, "application/json", limit=len(ids) * (MAX_STORED + 36)).body

    def missing(self, ids: Sequence[bytes]) -> list[bytes]:
        """Which of these chunks (at most 8192) the server lacks."""
        body = {"ids": [chunk.hex() for chunk in ids]}
        return [bytes.fromhex(chunk) for chunk in self._call("POST", "chunks/missing", body)["missing"]]

    def upload(self, frames: bytes) -> None:
        """Send chunks as frames (`twofold._core`), at most 64 MiB at once. The server checks each against its id."""
        self._request("POST", "chunks", frames, "application/octet-stream")

    def commit(self, image: str, version: dict[str, Any]) -> None:
        """Make a sealed index, and the targets that name it, the image's next version."""
        self._call("POST", f"images/{_quoted(image)}/versions", version)

    def extend(self, image: str, version: int, more: dict[str, Any]) -> None:
        """Give a version further indexes, and the targets that name them."""
        self._call("POST", f"images/{_quoted(image)}/versions/{int(version)}/variants", more)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _rows(self, noun: str, query: str = "") -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._call("GET", noun + query)[noun]
        return rows

    def _call(self, method: str, what: str, body: dict[str, Any] | None = None, limit: int = 8 << 20) -> dict[str, Any]:
        sent = b"" if body is None else canonical(body)
        return self._request(method, what, sent, "application/json", limit).json()

    def _request(self, method: str, what: str, body: bytes, kind: str, limit: int = 8 << 20) -> https.Answer:
        headers = {"Content-Type": kind} if body else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return self._connect().request(method, f"{https.API}/{what}", body, headers, limit)

    def _connect(self) -> https.Https:
        if self._client is None:
            self._client = https.pinned(self.place, https.fetch_authority(self.place, self.pin), timeout=60)
        return self._client


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def saved_pin(home: Path) -> str:
    """The pin of a server on this machine, for its own administrator: SHA-256 of `authority.der` in its folder."""
    return https.pin((home / "authority.der").read_bytes())
