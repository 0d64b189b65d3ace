"""What the server remembers. Times are Unix seconds; digests are hex. `migrations/` makes these tables, a test compares."""

from __future__ import annotations

from sqlalchemy import ForeignKey, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


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
    """A key whose images are taken and that devices pin."""

    __tablename__ = "publishers"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    public: Mapped[str] = mapped_column(String(64))
    created: Mapped[int]


class Image(Base):
    __tablename__ = "images"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)


class Version(Base):
    """`document` is the signed index as it came, `manifest` the manifest in it, `bytes` its sealed chunks, each once."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("image_id", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    version: Mapped[int]
    document: Mapped[str] = mapped_column(Text, deferred=True)
    manifest: Mapped[str] = mapped_column(Text)
    publisher: Mapped[str] = mapped_column(ForeignKey("publishers.key"))
    bytes: Mapped[int]
    published: Mapped[int]
    image: Mapped[Image] = relationship(lazy="joined")


class VersionChunk(Base):
    """Which chunks a version is made of: who holds a lease on it may fetch these and no others."""

    __tablename__ = "version_chunks"
    __table_args__ = ({"sqlite_with_rowid": False},)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    chunk: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)


class Grant(Base):
    """One user may have one workspace from one image. `ends` 0 means never; `policy` is JSON."""

    __tablename__ = "grants"
    __table_args__ = (
        UniqueConstraint("user_id", "workspace"),
        UniqueConstraint("user_id", "title"),
        UniqueConstraint("user_id", "colour"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    image_id: Mapped[int] = mapped_column(ForeignKey("images.id"))
    workspace: Mapped[str] = mapped_column(String(40))
    title: Mapped[str] = mapped_column(String(60))
    colour: Mapped[str] = mapped_column(String(20))
    policy: Mapped[str] = mapped_column(Text)
    ends: Mapped[int]
    created: Mapped[int]
    user: Mapped[User] = relationship(lazy="joined")
    image: Mapped[Image] = relationship(lazy="joined")


class Invitation(Base):
    """A one-time code, known by its SHA-256 alone. `used` 0 means not yet."""

    __tablename__ = "invitations"
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    expires: Mapped[int]
    used: Mapped[int]


class Device(Base):
    """`id` is the hex SHA-256 of `public` (Ed25519); data keys are wrapped for `wrap_public` (X25519). `revoked` 0: never."""

    __tablename__ = "devices"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(60))
    public: Mapped[str] = mapped_column(String(64))
    wrap_public: Mapped[str] = mapped_column(String(64))
    enrolled: Mapped[int]
    seen: Mapped[int]
    revoked: Mapped[int]
    user: Mapped[User] = relationship(lazy="joined")


class Nonce(Base):
    """A signed request that has been taken, until its time is outside the window."""

    __tablename__ = "nonces"
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    nonce: Mapped[str] = mapped_column(String(32), primary_key=True)
    time: Mapped[int] = mapped_column(index=True)


class Lease(Base):
    """Who holds a grant's workspace. `token` grows with each new holder and never shrinks (fencing)."""

    __tablename__ = "leases"
    grant_id: Mapped[int] = mapped_column(ForeignKey("grants.id"), primary_key=True)
    custody: Mapped[str] = mapped_column(String(20))
    token: Mapped[int]
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))
    version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    issued: Mapped[int]
    grant: Mapped[Grant] = relationship(lazy="joined")
    device: Mapped[Device | None] = relationship(lazy="joined")
    version: Mapped[Version | None] = relationship(lazy="joined")


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
