"""The tables of the catalog.

`HEAD` names the newest revision in `migrations/versions`: a change here needs a new revision there and a new
`HEAD`; a test compares what both make. Times are ISO 8601 in UTC with microseconds, so that they sort as
text. An edge is keyed by its blob, because a payload names its target, base and codec itself. An artifact to
which no edge leads was collected: its versions are history without content.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

HEAD = "0003_leases"

metadata = MetaData()

models = Table(
    "models",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("next_number", Integer, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("config", JSON, nullable=False),
    Column("started", String(32), nullable=False),
    Column("finished", String(32)),
    Column("state", String(16), nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("nbytes", BigInteger, nullable=False),
    Column("collected", String(32)),
)

edges = Table(
    "edges",
    metadata,
    Column("blob", String(64), primary_key=True),
    Column("target", ForeignKey("artifacts.digest"), nullable=False),
    Column("base", ForeignKey("artifacts.digest")),
    Column("codec", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Index("edges_by_target", "target", "base"),
)

versions = Table(
    "versions",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", ForeignKey("artifacts.digest"), nullable=False),
    Column("stored", BigInteger, nullable=False),
    Column("parent", Integer),
    Column("round", Integer, nullable=False),
    Column("run", ForeignKey("runs.id")),
    Column("codec", String(64), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created", String(32), nullable=False),
    Column("serving", JSON(none_as_null=True)),
    UniqueConstraint("model_id", "number", name="versions_by_number"),
    Index("versions_by_digest", "digest"),
    sqlite_autoincrement=True,  # a serial is never given twice, not even after a version was removed
)

labels = Table(
    "labels",
    metadata,
    Column("model_id", Integer, primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
)

label_moves = Table(
    "label_moves",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id"), nullable=False),
    Column("label", String(64), nullable=False),
    Column("before", Integer),
    Column("after", Integer, nullable=False),
    Column("who", String(128), nullable=False),
    Column("why", String, nullable=False),
    Column("moved", String(32), nullable=False),
    Index("label_moves_by_label", "model_id", "label"),
)

states = Table(
    "states",
    metadata,
    Column("model_id", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("blob", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    ForeignKeyConstraint(["model_id", "number"], ["versions.model_id", "versions.number"]),
)

clients = Table(
    "clients",
    metadata,
    Column("model_id", ForeignKey("models.id"), primary_key=True),
    Column("identity", String(128), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("number", Integer),
    Column("round", Integer, nullable=False),
    Column("seen", String(32), nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("model_id", ForeignKey("models.id"), primary_key=True),
    Column("token", String(64), nullable=False, unique=True),
    Column("run", String(128)),
    Column("host", String(128), nullable=False),
    Column("place", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("begun", String(32), nullable=False),
    Column("taken", String(32), nullable=False),
    Column("heard", String(32), nullable=False),
)
