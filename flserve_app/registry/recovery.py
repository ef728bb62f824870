"""A store whose catalog was lost gets a new one from what its payloads say of themselves.

A payload names its target, its base and its codec: the new catalog has all of them, and a version for each artifact
that can be made and that nothing else speaks of, in the order of the chains, under a model named `recovered`. Tables
that the old catalog still has are taken over. Names, metrics, labels and what serving takes are in no payload: they
are lost unless the old catalog has them, which is kept beside the new one, as is every blob. A crash leaves the
damaged store or the new one. No run may publish meanwhile.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, text

from flserve_app.disk.durable import force_folder
from flserve_app.errors import CodecError, StoreError
from flserve_app.registry.clock import utc_now
from flserve_app.registry.garbage import NAMES_NOTHING, names_nothing
from flserve_app.registry.layout import BLOBS_FOLDER, CATALOG_FILE, check_format, lost_catalog
from flserve_app.registry.lineage import Ancestor, Found, lines, read_header
from flserve_app.registry.registry import Registry
from flserve_app.store import Database, DirBlobs, Draft
from flserve_app.store.files import TEMPORARY
from flserve_app.store.intact import BESIDE
from flserve_app.store.labels import follow_latest
from flserve_app.store.names import ensure_model, next_number
from flserve_app.store.rows import insert_version
from flserve_app.store.salvage import add_payloads, mend, salvage

MODEL = "recovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What became of a lost catalog.

    Attributes:
        salvaged: Table of the old catalog to how many of its rows were taken over.
        versions: Model to how many versions were made for artifacts that nothing spoke of.
        payloads: How many payloads are named that were not.
        others: Digests of blobs that are no payloads (states are), which nothing names.
        damaged: Digests of blobs that are not what their name says.
        kept: Where the old catalog is; None if there was none.
    """

    salvaged: dict[str, int]
    versions: dict[str, int]
    payloads: int
    others: tuple[str, ...]
    damaged: tuple[str, ...]
    kept: Path | None


def loss(path: Path) -> str | None:
    """Return why a store needs a new catalog, in a sentence; None if it has one.

    Raises:
        StoreError: If the store is none, or cannot be read.
    """
    check_format(path)
    try:
        lost = lost_catalog(path)
    except StoreError as error:
        return str(error)
    if lost is None:
        with Registry.open(path, create=False) as registry:
            if registry.catalog.inventory([]).versions or not names_nothing(registry):
                return None
        lost = NAMES_NOTHING
    return f"{lost}: it was damaged from outside; `--repair` makes what the blobs tell"


def recover(path: Path) -> Recovered:
    """Make a new catalog for a store.

    Args:
        path: The store; nobody may use it meanwhile.

    Raises:
        StoreError: If the store is none, cannot be read or cannot be written; its catalog is then as it was.
    """
    folder = path.absolute()
    check_format(folder)
    _check_unused(folder)
    others: list[str] = []
    damaged: list[str] = []
    found = list(_payloads(folder / BLOBS_FOLDER, others, damaged))
    temporary = folder / f"{TEMPORARY}{secrets.token_hex(8)}.sqlite"
    try:
        database = Database.at(temporary)
        try:
            salvaged, versions, payloads = _fill(database, folder / CATALOG_FILE, found)
        finally:
            database.close()
        kept = _put_in_place(temporary, folder / CATALOG_FILE)
    except OSError as error:
        raise StoreError(f"cannot make a new catalog in {folder}: {error.strerror}") from error
    finally:
        for ending in ("", *BESIDE):
            with suppress(OSError):
                temporary.with_name(temporary.name + ending).unlink(missing_ok=True)
    return Recovered(
        salvaged={table: count for table, count in salvaged.items() if count},
        versions=versions,
        payloads=payloads,
        others=tuple(sorted(others)),
        damaged=tuple(sorted(damaged)),
        kept=kept,
    )


def _check_unused(folder: Path) -> None:
    """Refuse a store that a run publishes to: what it publishes would go with the catalog. Raises Conflict."""
    try:
        registry = Registry.open(folder, create=False)
    except StoreError:
        return  # a catalog that cannot be read holds nobody's lease
    with registry:
        registry.leases.check_unused()


def _payloads(folder: Path, others: list[str], damaged: list[str]) -> Iterator[Found]:
    blobs = DirBlobs(folder)
    for blob in sorted(blobs):
        try:
            data = blobs.view(blob)
        except StoreError:
            damaged.append(blob)
            continue
        try:
            yield read_header(blob, data, _written(folder / blob[:2] / blob))
        except CodecError:
            others.append(blob)


def _written(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.lstat().st_mtime, UTC)
    except (OSError, OverflowError, ValueError):
        return datetime.fromtimestamp(0, UTC)


def _fill(database: Database, old: Path, found: list[Found]) -> tuple[dict[str, int], dict[str, int], int]:
    sizes = {payload.edge.target: payload.nbytes for payload in found}
    with database.write() as connection:
        connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        salvaged = salvage(old, connection)
        payloads = add_payloads(connection, (payload.edge for payload in found), sizes)
        mend(connection)
        spoken = frozenset(connection.execute(text("SELECT digest FROM versions")).scalars())
        versions = {}
        for line in lines(found, spoken):
            model = _free_name(connection)
            _publish(connection, model, line)
            versions[model] = len(line)
    return salvaged, versions, payloads


def _free_name(connection: Connection) -> str:
    taken = set(connection.execute(text("SELECT name FROM models")).scalars())
    names = [MODEL, *(f"{MODEL}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def _publish(connection: Connection, model: str, line: tuple[Ancestor, ...]) -> None:
    key = ensure_model(connection, model)
    for ancestor in line:
        payload = ancestor.payload
        number = next_number(connection, key)
        draft = Draft(
            model=model,
            digest=payload.edge.target,
            nbytes=payload.nbytes,
            parent=ancestor.parent,
            round=number,
            run=None,
            codec=payload.edge.codec,
            metrics={},
            created=payload.written,
            serving=None,
        )
        insert_version(connection, key, number, draft, stored=payload.edge.nbytes)
    follow_latest(connection, key, number, utc_now(), why="recovered")


def _put_in_place(new: Path, place: Path) -> Path | None:
    """Put the new catalog in the place of the old one, which is kept beside it with its files."""
    kept = place.with_name(f"{place.name}.damaged-{utc_now():%Y%m%dT%H%M%S}-{secrets.token_hex(2)}")
    # First the files beside it: a log without its database harms nobody, and a new database must not find it.
    moved = [ending for ending in (*BESIDE, "") if _moved(place, kept, ending)]
    os.replace(new, place)
    force_folder(place.parent)
    return kept if moved else None


def _moved(place: Path, kept: Path, ending: str) -> bool:
    try:
        os.rename(place.with_name(place.name + ending), kept.with_name(kept.name + ending))
    except FileNotFoundError:
        return False
    return True
