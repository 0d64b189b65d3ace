"""What a device pins of its company's server when it is enrolled, and enrolling."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from twofold.model.canonical import canonical
from twofold.model.errors import BadInputError, DamagedError, NotFoundError, RefusedError
from twofold.model.names import slug, title
from twofold.trust import https, request
from twofold.trust.device import Identity
from twofold.trust.keys import VerifyKey, hex_bytes, write_private

SCHEMA = "twofold-enrolment-2"


@dataclass(frozen=True)
class Enrolment:
    """What this device pinned when it was enrolled. `authority` is the server's own certificate authority (DER); leases are
    believed under `server_key` alone, images from `root` on (python-tuf's) alone, and `reading` opens their indexes."""

    place: https.Place
    authority: bytes
    company: str
    user: str
    name: str
    server_key: VerifyKey
    root: bytes
    reading: bytes
    kind: str = "device"  # or "node", or "seat": a user's place on a node

    def save(self, path: Path) -> None:
        """Write as JSON, for this user alone, durable on return."""
        body = {
            "schema": SCHEMA,
            "host": self.place.host,
            "port": self.place.port,
            "authority": base64.b64encode(self.authority).decode(),
            "company": self.company,
            "user": self.user,
            "name": self.name,
            "server_key": self.server_key.public.hex(),
            "root": base64.b64encode(self.root).decode(),
            "reading": self.reading.hex(),
            "kind": self.kind,
        }
        write_private(path, canonical(body))

    @classmethod
    def load(cls, path: Path) -> Enrolment:
        """
        Raises:
            NotFoundError: this device is not enrolled. DamagedError: the file is not what was written.
        """
        try:
            held = json.loads(path.read_bytes())
            if held["schema"] != SCHEMA:
                raise ValueError("another schema")
            return cls(
                place=https.Place(str(held["host"]), int(held["port"])),
                authority=base64.b64decode(held["authority"], validate=True),
                company=title(held["company"], "a company"),
                user=slug(held["user"], "a user"),
                name=title(held["name"], "a device"),
                server_key=VerifyKey.from_hex(held["server_key"]),
                root=base64.b64decode(held["root"], validate=True),
                reading=hex_bytes(held["reading"], 32, "a reading key"),
                kind=str(held.get("kind", "device")),
            )
        except FileNotFoundError as none:
            raise NotFoundError(
                "This device is not enrolled.", next="Ask your company for an invitation, then:  twofold enrol URL"
            ) from none
        except (ValueError, KeyError, TypeError, AttributeError, BadInputError) as off:
            raise DamagedError(
                f"The enrolment in {path} cannot be read.",
                safe="Workspaces on this disk are not affected.",
                next="Restore the file, or enrol again with a new invitation.",
            ) from off


def enrol(untrusted_url: str, name: str, identity: Identity, wrap_public: bytes) -> Enrolment:
    """Use up an invitation's one-time code and pin the server, which is proved to be the invitation's before the code is sent.

    Raises:
        BadInputError: the URL is not an invitation. RefusedError: another server, or the code is used or too old.
        UnreachableError, TimedOutError: no answer; the code may be used up.
    """
    invited = https.invitation(untrusted_url)
    body = {
        "code": invited.code,
        "name": title(name, "a device"),
        "public": identity.verify_key.public.hex(),
        "wrap_public": wrap_public.hex(),
    }
    authority = https.fetch_authority(invited.place, invited.pin)
    sent, path = canonical(body), f"{https.API}/enrol"
    proof = request.headers(identity.signing, "", "POST", path, sent)
    client = https.pinned(invited.place, authority)
    try:
        answer = client.request("POST", path, sent, {"Content-Type": "application/json"} | proof, limit=1 << 20).json()
    finally:
        client.close()
    try:
        return Enrolment(
            place=invited.place,
            authority=authority,
            company=title(answer["company"], "a company"),
            user=slug(answer["user"], "a user"),
            name=body["name"],
            server_key=VerifyKey.from_hex(answer["server_key"]),
            root=_pinned_root(answer["roots"], invited.anchor.root),
            reading=invited.anchor.reading,
            kind=str(answer.get("kind", "device")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as off:
        raise BadInputError("The server's answer to the enrolment cannot be read.") from off


def _pinned_root(untrusted_roots: list[str], digest: str) -> bytes:
    for root in untrusted_roots[:64]:
        found = base64.b64decode(root, validate=True)
        if hashlib.sha256(found).hexdigest() == digest:
            return found
    raise RefusedError(
        "The server does not have the root of images that the invitation names.",
        safe="This device is not enrolled.",
        next="Ask for a new invitation; if it stays so, the server is not your company's.",
    )
