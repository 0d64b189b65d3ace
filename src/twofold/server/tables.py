"""What the server remembers. Times are Unix seconds; digests are hex. `migrations/` makes these tables, a test compares."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

# Times outgrow 32 bits in 2038 and sizes long before; SQLite numbers rows by itself only in a column called INTEGER.
COUNT = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    type_annotation_map = {int: COUNT}  # noqa: RUF012 - SQLAlchemy's own name and form


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    admin: Mapped[bool]
    password: Mapped[str] = mapped_column(String(200))  # argon2id, encoded with its parameters
    created: Mapped[int]


class Token(Base):
    """A bearer token, known by its SHA-256 alone."""

    __tablename__ = "tokens"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    expires: Mapped[int]
    user: Mapped[User] = relationship(lazy="joined")


class Publisher(Base):
    """A key that signs targets, as the root said when it came."""

    __tablename__ = "publishers"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    public: Mapped[str] = mapped_column(String(64))
    created: Mapped[int]


class Image(Base):
    __tablename__ = "images"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)


class Version(Base):
    """`bytes` are its sealed chunks, those of all architectures, each once."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("image_id", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    version: Mapped[int]
    publisher: Mapped[str] = mapped_column(ForeignKey("publishers.key"))
    bytes: Mapped[int]
    published: Mapped[int]
    image: Mapped[Image] = relationship(lazy="joined")
    variants: Mapped[list[Variant]] = relationship(order_by="Variant.arch")

    def variant(self, arch: str) -> Variant | None:
        """What one architecture gets; "" asks for what devices get that know of one alone: amd64's, or the only one."""
        found = {each.arch: each for each in self.variants}
        return found.get(arch) if arch else found.get("amd64", self.variants[0] if self.variants else None)


class Variant(Base):
    """What one architecture gets of a version: the sealed index `body`, as its publisher sent it, `sha256` (hex) of that, the
    manifest in it, and the `bytes` of its sealed chunks, each once."""

    __tablename__ = "variants"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    arch: Mapped[str] = mapped_column(String(40), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(Text, deferred=True)
    body: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    bytes: Mapped[int]


class Rollout(Base):
    """A version that somebody, or too many failed starts, has stopped: nobody begins with it. `halted` is when, 0: goes on."""

    __tablename__ = "rollouts"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    halted: Mapped[int]
    why: Mapped[str] = mapped_column(String(200))


class Start(Base):
    """How a version's last start on a device went."""

    __tablename__ = "starts"
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    good: Mapped[bool]
    at: Mapped[int]


class Role(Base):
    """Every version of the documents of python-tuf's roles, byte for byte (`twofold.server.roles`)."""

    __tablename__ = "roles"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str] = mapped_column(Text)


class VersionChunk(Base):
    """Which chunks a version is made of: who holds a lease on it may fetch these and no others."""

    __tablename__ = "version_chunks"
    __table_args__ = ({"sqlite_with_rowid": False},)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    chunk: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)


class Group(Base):
    __tablename__ = "groups"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)
    created: Mapped[int]


class Member(Base):
    __tablename__ = "members"
    group_id: Mapped[int] = mapped_column(ForeignKey("groups.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    since: Mapped[int]
    user: Mapped[User] = relationship(lazy="joined")


class Grant(Base):
    """A workspace from an image, for a user or for each member of a group. `ends` 0 means never; `policy` is JSON, what this
    scope says; `channel` is what its devices follow; of groups' grants of one name the higher `rank` decides.

    A user's row is that user's workspace, with its lease and its past: `own` where an administrator granted it to that user,
    else it is there by the group's grant `given_id`, or was (`twofold.server.shares`). A group's row has no lease."""

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("user_id", "workspace"),
        UniqueConstraint("user_id", "title"),
        UniqueConstraint("user_id", "colour"),
        UniqueConstraint("group_id", "workspace"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"))
    group_id: Mapped[int | None] = mapped_column(ForeignKey("groups.id"))
    own: Mapped[bool]
    # Rows come back from a backup by their numbers, and this may name a later one.
    given_id: Mapped[int | None] = mapped_column(
        ForeignKey("grants.id", deferrable=True, initially="DEFERRED"), index=True
    )
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    workspace: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(60))
    colour: Mapped[str] = mapped_column(String(20))
    pool: Mapped[str] = mapped_column(String(40))
    channel: Mapped[str] = mapped_column(String(40))
    rank: Mapped[int]
    policy: Mapped[str] = mapped_column(Text)
    ends: Mapped[int]
    created: Mapped[int]
    person: Mapped[User | None] = relationship(lazy="joined")
    group: Mapped[Group | None] = relationship(lazy="joined")
    given: Mapped[Grant | None] = relationship(remote_side="Grant.id")
    image: Mapped[Image] = relationship(lazy="joined")

    @property
    def user(self) -> User:
        """Whose workspace it is."""
        assert self.person is not None  # whoever comes by a lease has a user's row
        return self.person


class Invitation(Base):
    """A one-time code, known by its SHA-256 alone. `used` 0 means not yet. `kind` and `node_id` are the device's to be."""

    __tablename__ = "invitations"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    expires: Mapped[int]
    used: Mapped[int]
    kind: Mapped[str] = mapped_column(String(10), default="device")
    node_id: Mapped[str] = mapped_column(String(64), default="")


class Device(Base):
    """`id` is the hex SHA-256 of `public` (Ed25519); data keys are wrapped for `wrap_public` (X25519). `revoked` 0: never.
    `kind` is `device`, `node`, or `seat`: a user's place on the node `node_id`. `vouch` is the device's own proof
    (`trust.vouch`)."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(60))
    public: Mapped[str] = mapped_column(String(64))
    wrap_public: Mapped[str] = mapped_column(String(64))
    enrolled: Mapped[int]
    seen: Mapped[int]
    revoked: Mapped[int]
    kind: Mapped[str] = mapped_column(String(10), default="device")
    node_id: Mapped[str] = mapped_column(String(64), default="")
    vouch: Mapped[str] = mapped_column(String(64), default="")
    user: Mapped[User] = relationship(lazy="joined")


class Nonce(Base):
    """A signed request that has been taken, until its time is outside the window."""

    __tablename__ = "nonces"
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    nonce: Mapped[str] = mapped_column(String(32), primary_key=True)
    time: Mapped[int] = mapped_column(index=True)


class Lease(Base):
    """Who holds a grant's workspace. `token` grows with each new holder and never shrinks (fencing). `head` is the newest
    generation of its one line of history, `epoch` that line's highest key epoch, `keys` the wrapped keys that open it (JSON).
    `seen` is the holder's last heartbeat, `told` what it said then (JSON), `since` when it took the lease. Its disks stand on
    `version`; `next` is what an administrator wants them to go to, `former` what they may still go back to."""

    __tablename__ = "leases"
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"), primary_key=True)
    custody: Mapped[str] = mapped_column(String(20))
    token: Mapped[int]
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    next_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    former_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    issued: Mapped[int]
    head: Mapped[str | None] = mapped_column(String(64))
    epoch: Mapped[int]
    keys: Mapped[str] = mapped_column(Text)
    since: Mapped[int]
    seen: Mapped[int]
    told: Mapped[str] = mapped_column(Text)
    grant: Mapped[Grant] = relationship(lazy="joined")
    device: Mapped[Device | None] = relationship(lazy="joined")
    version: Mapped[Version | None] = relationship(lazy="joined", foreign_keys=[version_id])
    next: Mapped[Version | None] = relationship(foreign_keys=[next_id])
    former: Mapped[Version | None] = relationship(foreign_keys=[former_id])


class Holder(Base):
    """Who held which token, and how that ended: "" while it lasts, `checked-in`, `discarded`, `broken`. `epoch` is the least key
    epoch that it may commit in, `wanted` the one that it has been asked to begin since (0: none)."""

    __tablename__ = "holders"
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"), primary_key=True)
    token: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    epoch: Mapped[int]
    wanted: Mapped[int] = mapped_column(default=0)
    since: Mapped[int]
    until: Mapped[int]
    how: Mapped[str] = mapped_column(String(20))


class Generation(Base):
    """A point of a workspace's past. `kind` is `line`, `branch` or `restore`; `parent` what it was built upon, `content` the
    manifest that it is (its own id, or what a restore put there). `dropped` 0: its objects are kept."""

    __tablename__ = "generations"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"), index=True)
    kind: Mapped[str] = mapped_column(String(10))
    parent: Mapped[str] = mapped_column(String(64))
    content: Mapped[str] = mapped_column(String(64))
    token: Mapped[int]
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))
    vault: Mapped[str] = mapped_column(String(32))
    number: Mapped[int]
    epoch: Mapped[int]
    time: Mapped[int]
    committed: Mapped[int]
    bytes: Mapped[int]
    dropped: Mapped[int]
    document: Mapped[str] = mapped_column(Text, deferred=True)
    keys: Mapped[str] = mapped_column(Text, deferred=True)
    device: Mapped[Device | None] = relationship(lazy="joined")


class Sealed(Base):
    """A file of a vault that is here whole, by its BLAKE3; `key` is its name in the store."""

    __tablename__ = "sealed"
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    token: Mapped[int]
    size: Mapped[int]
    key: Mapped[str] = mapped_column(String(200))
    created: Mapped[int]


class Needed(Base):
    """Which files a kept generation needs."""

    __tablename__ = "needed"
    __table_args__ = ({"sqlite_with_rowid": False},)
    generation: Mapped[str] = mapped_column(ForeignKey("generations.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    size: Mapped[int]


class Command(Base):
    """What an administrator asked of a device. `state`: `waiting`, `given`, `done`, `failed`, `withdrawn`; `receipt` is JSON.
    `version` is an upgrade's, 0 for all others."""

    __tablename__ = "commands"
    id: Mapped[int] = mapped_column(primary_key=True)
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"))
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), index=True)
    token: Mapped[int]
    verb: Mapped[str] = mapped_column(String(20))
    version: Mapped[int]
    state: Mapped[str] = mapped_column(String(10))
    asked: Mapped[int]
    asked_by: Mapped[str] = mapped_column(String(80))
    given: Mapped[int]
    ended: Mapped[int]
    receipt: Mapped[str] = mapped_column(Text)


class Ticket(Base):
    """One opening of a workspace's screen by one signed-in user, known by its SHA-256 alone; gone once it was shown."""

    __tablename__ = "tickets"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"))
    expires: Mapped[int]


class Rules(Base):
    """What a scope says (JSON), and since when. `name` is "" for everybody. A grant says it itself; its row here is for devices
    that ask whether there is news."""

    __tablename__ = "rules"
    scope: Mapped[str] = mapped_column(String(10), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    said: Mapped[str] = mapped_column(Text)
    changed: Mapped[int]


class Done(Base):
    """The answer to a request with an idempotency key, for a day, sealed with that key, of which only the digest is here."""

    __tablename__ = "done"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    request: Mapped[str] = mapped_column(String(64))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created: Mapped[int] = mapped_column(index=True)


class Fact(Base):
    """A number about the server itself: `token_floor`, below which no new token may lie."""

    __tablename__ = "facts"
    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    value: Mapped[int]


class Audit(Base):
    """Append-only (triggers refuse the rest); `hash` covers the entry and the one before it."""

    __tablename__ = "audit"
    entry: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[int]
    actor: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(200))
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))
