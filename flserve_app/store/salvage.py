"""Rows of a damaged catalog put into a new one, and what has to be there for them to hold together.

Whatever table the old file still has is copied as it is, by name of column. Then rows that speak of rows that are
gone are given something to speak of, or go: a model whose name was lost gets one, a run that is not there is
forgotten, a label stands where its last move left it, and goes without its version.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, text

from flserve_app.store.schema import metadata
from flserve_app.store.version import LATEST, Edge

_BUSY_SECONDS = 60.0
_MEND = (
    "INSERT OR IGNORE INTO models (id, name, next_number) "
    "SELECT DISTINCT model_id, 'recovered-' || model_id, 0 FROM versions WHERE model_id NOT IN (SELECT id FROM models)",
    "DELETE FROM versions WHERE model_id NOT IN (SELECT id FROM models) OR typeof(digest) != 'text'",
    "UPDATE versions SET run = NULL WHERE run NOT IN (SELECT id FROM runs)",
    "UPDATE models SET next_number = (SELECT max(number) + 1 FROM versions WHERE model_id = models.id) "
    "WHERE next_number <= (SELECT max(number) FROM versions WHERE model_id = models.id)",
    "INSERT OR IGNORE INTO artifacts (digest, nbytes) SELECT DISTINCT digest, 0 FROM versions",
    "INSERT OR IGNORE INTO artifacts (digest, nbytes) SELECT DISTINCT target, 0 FROM edges",
    "INSERT OR IGNORE INTO artifacts (digest, nbytes) SELECT DISTINCT base, 0 FROM edges WHERE base IS NOT NULL",
    "INSERT OR IGNORE INTO labels (model_id, name, number) SELECT model_id, label, after FROM label_moves "
    "WHERE id IN (SELECT max(id) FROM label_moves GROUP BY model_id, label)",
    *(
        f"DELETE FROM {table} WHERE NOT EXISTS "
        f"(SELECT 1 FROM versions v WHERE v.model_id = {table}.model_id AND v.number = {table}.{number})"
        for table, number in (("labels", "number"), ("states", "number"), ("label_moves", "after"))
    ),
    "INSERT OR IGNORE INTO labels (model_id, name, number) "
    f"SELECT model_id, '{LATEST}', max(number) FROM versions GROUP BY model_id",
    *(
        f"DELETE FROM {table} WHERE model_id NOT IN (SELECT id FROM models)"
        for table in ("label_moves", "clients", "runs")
    ),
)


def salvage(old: Path, connection: Connection) -> dict[str, int]:
    """Copy what a damaged catalog still holds into a new, empty one.

    Args:
        old: The damaged file; nothing is written to it, and it need not be a database.
        connection: In a write transaction of the new one, which does not check references yet.

    Returns:
        Table to how many rows it gave.
    """
    if not old.is_file() or old.is_symlink():  # a FIFO would be waited for, a link leads elsewhere
        return {}
    try:
        with closing(sqlite3.connect(f"file:{quote(str(old))}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as source:
            kinds = source.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
            plain = {name for name, sql in kinds if str(sql).upper().startswith("CREATE TABLE")}
            return {name: _copy(source, connection, name) for name in metadata.tables if name in plain}
    except sqlite3.Error:
        return {}


def add_payloads(connection: Connection, edges: Iterable[Edge], sizes: Mapping[str, int]) -> int:
    """Add payloads and the artifacts that they make and need, unless they are there; return how many were new."""
    artifact = text("INSERT OR IGNORE INTO artifacts (digest, nbytes) VALUES (:digest, :nbytes)")
    known = text("UPDATE artifacts SET nbytes = :nbytes, collected = NULL WHERE digest = :digest")
    payload = text(
        "INSERT OR IGNORE INTO edges (blob, target, base, codec, nbytes) "
        "VALUES (:blob, :target, :base, :codec, :nbytes)"
    )
    added = 0
    for edge in edges:
        if edge.base is not None:  # of which nothing else may be known: it has about as many bytes
            connection.execute(artifact, {"digest": edge.base, "nbytes": sizes[edge.target]})
        for statement in (artifact, known):
            connection.execute(statement, {"digest": edge.target, "nbytes": sizes[edge.target]})
        values = {"blob": edge.blob, "target": edge.target, "base": edge.base, "codec": edge.codec}
        added += connection.execute(payload, {**values, "nbytes": edge.nbytes}).rowcount
    return added


def rename_payloads(connection: Connection, sizes: Mapping[Edge, int]) -> None:
    """Replace the rows of payloads by what these say of themselves.

    Args:
        connection: In a write transaction.
        sizes: Payload to bytes of the artifact that it makes.
    """
    forget = text("DELETE FROM edges WHERE blob = :blob")
    for edge in sizes:
        connection.execute(forget, {"blob": edge.blob})
    add_payloads(connection, sizes, {edge.target: nbytes for edge, nbytes in sizes.items()})


def mend(connection: Connection) -> None:
    """Make rows hold together again, in the transaction that salvaged them."""
    for statement in _MEND:
        connection.execute(text(statement))


def _copy(source: sqlite3.Connection, connection: Connection, table: str) -> int:
    there = {row[1] for row in source.execute(f'PRAGMA table_xinfo("{table}")') if row[6] == 0}
    columns = [column.name for column in metadata.tables[table].columns if column.name in there]
    if not columns:
        return 0
    names = ", ".join(columns)
    insertion = text(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join(f':{name}' for name in columns)})")
    count = 0
    try:
        for row in source.execute(f'SELECT {names} FROM "{table}"'):
            count += connection.execute(insertion, dict(zip(columns, row, strict=True))).rowcount
    except sqlite3.Error:
        pass  # a page that cannot be read ends the table: what came before it is saved
    return count
