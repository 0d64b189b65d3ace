"""Nodes, seats on them, what devices vouch for, tickets for a screen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "online"
down_revision = "images"
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    for table in ("invitations", "devices"):
        op.add_column(table, sa.Column("kind", sa.String(length=10), nullable=False, server_default="device"))
        op.add_column(table, sa.Column("node_id", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("devices", sa.Column("vouch", sa.String(length=64), nullable=False, server_default=""))
    op.create_table(
        "tickets",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("user_id", COUNT, nullable=False),
        sa.Column("grant_id", COUNT, nullable=False),
        sa.Column("expires", COUNT, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"]),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"]),
        sa.PrimaryKeyConstraint("digest"),
    )
