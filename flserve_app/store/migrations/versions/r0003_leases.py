"""Leases: which run publishes under a model's name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003_leases"
down_revision = "0002"


def upgrade() -> None:
    """Add what this revision added; nothing that is there changes."""
    op.create_table(
        "leases",
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("token", sa.String(64), nullable=False, unique=True),
        sa.Column("run", sa.String(128)),
        sa.Column("host", sa.String(128), nullable=False),
        sa.Column("place", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("begun", sa.String(32), nullable=False),
        sa.Column("taken", sa.String(32), nullable=False),
        sa.Column("heard", sa.String(32), nullable=False),
    )
