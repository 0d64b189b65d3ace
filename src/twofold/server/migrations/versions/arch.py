"""A version of an image has an index for each architecture that it was built for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "arch"
down_revision = "online"
branch_labels = None
depends_on = None

COUNT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "variants",
        sa.Column("version_id", COUNT, nullable=False),
        sa.Column("arch", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("bytes", COUNT, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"]),
        sa.PrimaryKeyConstraint("version_id", "arch"),
    )
    # What has no index is from before there were any, and has to be published anew. Manifests are canonical JSON, in which this
    # can be nothing but the field.
    op.execute(
        """INSERT INTO variants (version_id, arch, sha256, manifest, bytes, body)
           SELECT versions.id, CASE WHEN manifest LIKE '%"arch":"arm64"%' THEN 'arm64' ELSE 'amd64' END,
                  sha256, manifest, bytes, body
             FROM versions JOIN indexes ON indexes.version_id = versions.id"""
    )
    op.drop_table("indexes")
    for name in ("sha256", "manifest"):
        op.drop_column("versions", name)
