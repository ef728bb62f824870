"""Catalogs that somebody else wrote to: whatever stands in a row, every command ends well or with an error of ours."""

import json
import random
import shutil
import sqlite3
from contextlib import closing, suppress

import pytest

from flserve_app.errors import FlserveError
from flserve_app.registry import Holder, Registry, Retention, Serving, collect, export_bundle, verify
from flserve_app.registry.recovery import loss, recover
from flserve_app.store.schema import metadata
from tests.foreign import NASTY, changed_bytes, fuzz_stores, seeds
from tests.registry.samples import drifting

SERVING = Serving(model_id="mlp", arguments={"hidden": 64}, inputs=({"shape": [None, 32]},), classes=("a", "b"), seed=7)
MORE = drifting(1, size=7)[0]
DIGEST = drifting(2, size=50)[1].digest
SIMPLE = [value for value in NASTY if not isinstance(value, dict | list)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template") / "store"
    artifacts = drifting(4, size=50)
    with Registry.open(folder) as registry:
        registry.start_run("r", "m", config={"a": 1})
        for number, artifact in enumerate(artifacts):
            registry.publish(
                "m",
                artifact,
                round=number,
                codec="lossless",
                parent=number - 1 if number else None,
                run="r",
                metrics={"accuracy": 0.5},
                serving=SERVING,
                state=b"moments",
                state_kind="adam",
            )
        registry.move_label("m", "best", 1, why="good", who="me")
        registry.saw_clients("m", [Holder(identity="a", digest=artifacts[2].digest, number=2, round=2)])
    return folder


def commands(store, folder):
    """Everything that a command line does with a store."""
    with Registry.open(store, create=False) as registry:
        looks = [
            lambda: [registry.versions(model) for model in registry.models()],
            lambda: [(registry.labels(model), registry.label_moves(model)) for model in registry.models()],
            lambda: [registry.resolve("m", ref) for ref in ("latest", "best", "v2", DIGEST[:8])],
            lambda: [registry.load(version) for version in registry.versions("m")],
            lambda: (registry.runs(), registry.clients("m"), registry.load_state("m", 3)),
            lambda: verify(registry, repair=True),
            lambda: export_bundle(registry, registry.versions("m"), folder / "bundle"),
            lambda: collect(registry, Retention(keep=2), dry_run=True),
            lambda: registry.publish("m", MORE, round=9, codec="full", parent=3, state=b"s", state_kind="k"),
            lambda: registry.move_label("m", "best", 2, why=""),
            lambda: registry.add_metrics("m", 1, {"loss": 1.0}),
            lambda: registry.finish_run("r"),
            lambda: collect(registry, Retention(keep=1, keep_labelled=True)),
        ]
        for look in looks:
            with suppress(FlserveError):
                look()


def poked(path, stream):
    """Write something odd into a place or two."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA foreign_keys=OFF")
        database.execute("PRAGMA ignore_check_constraints=ON")
        for _ in range(stream.choice((1, 1, 2))):
            table = stream.choice(list(metadata.tables.values()))
            column = stream.choice(list(table.columns)).name
            value = stream.choice((*SIMPLE, b"\xff\xfe", b"", json.dumps(stream.choice(NASTY)), "{", "[" * 3000))
            if isinstance(value, int) and abs(value) >= 2**63:
                value = float(value)
            value = value.encode("utf-8", "surrogatepass") if value == "\ud800" else value
            rows = "1" if stream.random() < 0.5 else f"rowid = (SELECT max(rowid) FROM {table.name})"
            with suppress(sqlite3.Error):  # NOT NULL and the like
                if isinstance(value, bytes) and stream.random() < 0.5:
                    database.execute(f"UPDATE {table.name} SET {column} = CAST(? AS TEXT) WHERE {rows}", (value,))
                else:
                    database.execute(f"UPDATE {table.name} SET {column} = ? WHERE {rows}", (value,))
        database.commit()


@fuzz_stores
@seeds
def test_rows(template, tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("poked")
    shutil.copytree(template, folder / "store")
    poked(folder / "store" / "catalog.sqlite", random.Random(seed))
    with suppress(FlserveError):
        commands(folder / "store", folder)
    shutil.rmtree(folder)


SCHEMAS = [
    "DROP TABLE {table}",
    "ALTER TABLE {table} RENAME TO other",
    "ALTER TABLE {table} RENAME COLUMN {column} TO other",
    "ALTER TABLE {table} ADD COLUMN more",
    "CREATE TRIGGER odd AFTER INSERT ON {table} BEGIN DELETE FROM edges; END",
    "CREATE VIEW odd AS SELECT * FROM {table}",
    "DELETE FROM {table}",
    "DROP TABLE {table}; "
    "CREATE VIEW {table} AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i FROM n",
    "DROP TABLE {table}; CREATE TABLE {table} (x)",
    "DROP TABLE {table}; CREATE VIRTUAL TABLE {table} USING fts5(x)",
    "UPDATE alembic_version SET version_num = '{column}'",
    "DELETE FROM alembic_version",
]


@fuzz_stores
@seeds
def test_tables(template, tmp_path_factory, seed):
    stream = random.Random(seed)
    folder = tmp_path_factory.mktemp("tables")
    shutil.copytree(template, folder / "store")
    path = folder / "store" / "catalog.sqlite"
    if stream.random() < 0.15:
        path.write_bytes(changed_bytes(path.read_bytes(), stream))
    else:
        table = stream.choice(list(metadata.tables.values()))
        column = stream.choice(list(table.columns)).name
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA foreign_keys=OFF")
            with suppress(sqlite3.Error):
                database.executescript(stream.choice(SCHEMAS).format(table=table.name, column=column))
    with suppress(FlserveError):
        commands(folder / "store", folder)
    with suppress(FlserveError):
        if loss(folder / "store") is not None:
            recover(folder / "store")
            assert loss(folder / "store") is None
            commands(folder / "store", folder)
    shutil.rmtree(folder)
