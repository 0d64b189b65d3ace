"""Which version a workspace goes to, and which it came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "images"
down_revision = "0003"
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("leases") as leases:
        for name in ("next_id", "former_id"):
            leases.add_column(sa.Column(name, COUNT, nullable=True))
            leases.create_foreign_key(op.f(f"fk_leases_{name}"), "versions", [name], ["id"])
    op.add_column("commands", sa.Column("version", COUNT, nullable=False, server_default="0"))
