"""Generations, holders, commands, rules by scope."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")
# The defaults of version 0.1, whose grants kept whole policies: what was at its default then was said by nobody.
FIRST = {
    "offline_seconds": 604800, "heartbeat_seconds": 300, "clipboard_to_work": False, "clipboard_from_work": False,
    "sound_out": True, "sound_in": False, "files_to_work": False, "files_from_work": False, "usb": False,
    "screenshots": False, "network": "none",
}  # fmt: skip


def upgrade() -> None:
    op.add_column("grants", sa.Column("pool", sa.String(length=40), nullable=False, server_default=""))
    for column in (
        sa.Column("head", sa.String(length=64), nullable=True),
        sa.Column("epoch", COUNT, nullable=False, server_default="0"),
        sa.Column("keys", sa.Text(), nullable=False, server_default=""),
        sa.Column("since", COUNT, nullable=False, server_default="0"),
        sa.Column("seen", COUNT, nullable=False, server_default="0"),
        sa.Column("told", sa.Text(), nullable=False, server_default=""),
    ):
        op.add_column("leases", column)
    op.create_table(
        "holders",
        sa.Column("grant_id", COUNT, nullable=False),
        sa.Column("token", COUNT, nullable=False, autoincrement=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("epoch", COUNT, nullable=False),
        sa.Column("since", COUNT, nullable=False),
        sa.Column("until", COUNT, nullable=False),
        sa.Column("how", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"]),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.PrimaryKeyConstraint("grant_id", "token"),
    )
    op.create_table(
        "generations",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("grant_id", COUNT, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("parent", sa.String(length=64), nullable=False),
        sa.Column("content", sa.String(length=64), nullable=False),
        sa.Column("token", COUNT, nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=True),
        sa.Column("vault", sa.String(length=32), nullable=False),
        sa.Column("number", COUNT, nullable=False),
        sa.Column("epoch", COUNT, nullable=False),
        sa.Column("time", COUNT, nullable=False),
        sa.Column("committed", COUNT, nullable=False),
        sa.Column("bytes", COUNT, nullable=False),
        sa.Column("dropped", COUNT, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"]),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_generations_grant_id"), "generations", ["grant_id"], unique=False)
    op.create_table(
        "sealed",
        sa.Column("grant_id", COUNT, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("token", COUNT, nullable=False),
        sa.Column("size", COUNT, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("created", COUNT, nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"]),
        sa.PrimaryKeyConstraint("grant_id", "digest"),
    )
    op.create_table(
        "needed",
        sa.Column("generation", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("size", COUNT, nullable=False),
        sa.ForeignKeyConstraint(["generation"], ["generations.id"]),
        sa.PrimaryKeyConstraint("generation", "digest"),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_needed_digest"), "needed", ["digest"], unique=False)
    op.create_table(
        "commands",
        sa.Column("id", COUNT, nullable=False),
        sa.Column("grant_id", COUNT, nullable=False),
        sa.Column("device_id", sa.String(length=64), nullable=False),
        sa.Column("token", COUNT, nullable=False),
        sa.Column("verb", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("asked", COUNT, nullable=False),
        sa.Column("asked_by", sa.String(length=80), nullable=False),
        sa.Column("given", COUNT, nullable=False),
        sa.Column("ended", COUNT, nullable=False),
        sa.Column("receipt", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"]),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_commands_device_id"), "commands", ["device_id"], unique=False)
    op.create_table(
        "rules",
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("said", sa.Text(), nullable=False),
        sa.Column("changed", COUNT, nullable=False),
        sa.PrimaryKeyConstraint("scope", "name"),
    )
    op.create_table(
        "done",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created", COUNT, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index(op.f("ix_done_created"), "done", ["created"], unique=False)
    op.create_table(
        "facts",
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("value", COUNT, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    _carry_over(op.get_bind())


def _carry_over(connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE grants SET pool = (SELECT name FROM images WHERE images.id = grants.image_id)"))
    for number, policy in connection.execute(sa.text("SELECT id, policy FROM grants")).all():
        said = {name: value for name, value in json.loads(policy).items() if value != FIRST.get(name)}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        connection.execute(sa.text("UPDATE grants SET policy = :said WHERE id = :id"), {"said": text, "id": number})
    connection.execute(sa.text("UPDATE leases SET since = issued, seen = issued"))
    connection.execute(
        sa.text(
            "INSERT INTO holders (grant_id, token, device_id, epoch, since, until, how) "
            "SELECT grant_id, token, device_id, 0, issued, 0, '' FROM leases WHERE device_id IS NOT NULL"
        )
    )
