"""Groups, their members, grants to them, and the channel that a grant follows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "groups"
down_revision = "arch"
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_KEPT = "id, user_id, image_id, workspace, title, colour, pool, policy, ends, created"
_ADDED = {"own": "true", "channel": "'stable'", "rank": "0"}


def upgrade() -> None:
    op.create_table(
        "groups",
        sa.Column("id", COUNT, nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("created", COUNT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "members",
        sa.Column("group_id", COUNT, nullable=False),
        sa.Column("user_id", COUNT, nullable=False),
        sa.Column("since", COUNT, nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"]),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.PrimaryKeyConstraint("group_id", "user_id"),
    )
    op.create_index(op.f("ix_members_user_id"), "members", ["user_id"])
    if op.get_context().dialect.name == "sqlite":
        _anew()
    else:
        _changed()
    op.create_index(op.f("ix_grants_given_id"), "grants", ["given_id"])


def _changed() -> None:
    op.alter_column("grants", "user_id", nullable=True)
    op.add_column("grants", sa.Column("group_id", COUNT, sa.ForeignKey("groups.id"), nullable=True))
    given = sa.ForeignKey("grants.id", deferrable=True, initially="DEFERRED")
    op.add_column("grants", sa.Column("given_id", COUNT, given, nullable=True))
    op.create_unique_constraint("grants_group_id_workspace_key", "grants", ["group_id", "workspace"])
    for name, kind in (("own", sa.Boolean()), ("channel", sa.String(length=40)), ("rank", COUNT)):
        op.add_column("grants", sa.Column(name, kind, nullable=False, server_default=sa.text(_ADDED[name])))


def _anew() -> None:
    """SQLite cannot let a column become empty: the table is made anew under its own name, while what points to its rows waits
    until the end of the transaction to be checked, and finds them."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute(f"CREATE TEMPORARY TABLE grants_kept AS SELECT {_KEPT} FROM grants")
    op.drop_table("grants")
    op.create_table(
        "grants",
        sa.Column("id", COUNT, nullable=False),
        sa.Column("user_id", COUNT, nullable=True),
        sa.Column("group_id", COUNT, nullable=True),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("given_id", COUNT, nullable=True),
        sa.Column("image_id", COUNT, nullable=False),
        sa.Column("workspace", sa.String(length=40), nullable=False),
        sa.Column("title", sa.String(length=60), nullable=False),
        sa.Column("colour", sa.String(length=20), nullable=False),
        sa.Column("pool", sa.String(length=40), nullable=False),
        sa.Column("channel", sa.String(length=40), nullable=False),
        sa.Column("rank", COUNT, nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("ends", COUNT, nullable=False),
        sa.Column("created", COUNT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"]),
        sa.ForeignKeyConstraint(["given_id"], ["grants.id"], deferrable=True, initially="DEFERRED"),
        sa.ForeignKeyConstraint(["image_id"], ["images.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("user_id", "workspace"),
        sa.UniqueConstraint("user_id", "title"),
        sa.UniqueConstraint("user_id", "colour"),
        sa.UniqueConstraint("group_id", "workspace"),
    )
    names, values = ", ".join(_ADDED), ", ".join(_ADDED.values())
    op.execute(f"INSERT INTO grants ({_KEPT}, {names}) SELECT {_KEPT}, {values} FROM grants_kept")
    op.execute("DROP TABLE grants_kept")
