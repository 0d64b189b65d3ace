"""Key epochs that holders are asked to begin."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "vault"
down_revision = "groups"
branch_labels = None
depends_on = None


def upgrade() -> None:
    count = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("holders", sa.Column("wanted", count, nullable=False, server_default="0"))
