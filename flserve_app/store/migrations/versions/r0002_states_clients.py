"""States of versions, the clients that were seen, and when an artifact was collected."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what this revision added; nothing that is there changes."""
    op.add_column("artifacts", sa.Column("collected", sa.String(32)))
    op.create_table(
        "states",
        sa.Column("model_id", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("blob", sa.String(64), nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
    )
    op.create_table(
        "clients",
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("identity", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("seen", sa.String(32), nullable=False),
    )
