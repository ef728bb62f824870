"""Models, runs, artifacts, edges, versions, labels and their moves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "models",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(128), nullable=False, unique=True),
        sa.Column("next_number", sa.Integer, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("started", sa.String(32), nullable=False),
        sa.Column("finished", sa.String(32)),
        sa.Column("state", sa.String(16), nullable=False),
    )
    _history()
    _labels()


def _history() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "edges",
        sa.Column("blob", sa.String(64), primary_key=True),
        sa.Column("target", sa.String(64), sa.ForeignKey("artifacts.digest"), nullable=False),
        sa.Column("base", sa.String(64), sa.ForeignKey("artifacts.digest")),
        sa.Column("codec", sa.String(64), nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
    )
    op.create_index("edges_by_target", "edges", ["target", "base"])
    op.create_table(
        "versions",
        sa.Column("serial", sa.Integer, primary_key=True),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), sa.ForeignKey("artifacts.digest"), nullable=False),
        sa.Column("stored", sa.BigInteger, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("round", sa.Integer, nullable=False),
        sa.Column("run", sa.String(128), sa.ForeignKey("runs.id")),
        sa.Column("codec", sa.String(64), nullable=False),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("created", sa.String(32), nullable=False),
        sa.Column("serving", sa.JSON),
        sa.UniqueConstraint("model_id", "number", name="versions_by_number"),
        sqlite_autoincrement=True,
    )
    op.create_index("versions_by_digest", "versions", ["digest"])


def _labels() -> None:
    op.create_table(
        "labels",
        sa.Column("model_id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
    )
    op.create_table(
        "label_moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("model_id", sa.Integer, sa.ForeignKey("models.id"), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("before", sa.Integer),
        sa.Column("after", sa.Integer, nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("moved", sa.String(32), nullable=False),
    )
    op.create_index("label_moves_by_label", "label_moves", ["model_id", "label"])
