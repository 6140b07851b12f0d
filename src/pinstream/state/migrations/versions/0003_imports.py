"""Keys that may import, and the lists that shops give us."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("may_import", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "member_list",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name="fk_member_list_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_member_list"),
        sa.UniqueConstraint("site_id", "name", name="uq_member_list_site_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_member_list_site_id", "member_list", ["site_id"])
