"""Which store and which model a command is about, when it is not told.

Right after a run, `flserve log` shows that run: the newest store below `outputs/` is taken, and said on stderr.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from flserve_app.errors import NotFound
from flserve_app.registry import Registry
from flserve_app.registry.layout import BLOBS_FOLDER, FORMAT_FILE, is_store
from flserve_app.text import plain

OUTPUTS = Path("outputs")
STORE = "store"


def open_store(path: Path | None) -> Registry:
    """Open a store to look at; see `choose_store`.

    Raises:
        NotFound: If there is none.
        StoreError: If it cannot be opened.
    """
    return Registry.open(choose_store(path), create=False)


def choose_store(path: Path | None) -> Path:
    """Return the store in the given folder (or run folder), else the newest one.

    Raises:
        NotFound: If none is given and there is none.
        StoreError: If the folder cannot be looked at.
    """
    if path is None:
        path = newest_store(OUTPUTS)
        typer.echo(f"store: {plain(path)}", err=True)
    elif not is_store(path) and is_store(path / STORE):
        path = path / STORE
    return path


def open_target(path: Path | None) -> Registry:
    """Open a store to put something in: as `open_store` does, but one that was named is made if it is not there.

    Raises:
        NotFound: If none was named and there is none.
        StoreError: If it cannot be opened or made.
    """
    if path is None or is_store(path / STORE):
        return open_store(path)
    return Registry.open(path)


def is_new(path: Path | None) -> bool:
    """Whether `open_target` would make a store. Raises StoreError if that cannot be found out."""
    return path is not None and not is_store(path) and not is_store(path / STORE)


def newest_store(outputs: Path) -> Path:
    """Return the store below a folder that was written to last; one that holds something goes first.

    Raises:
        NotFound: If there is none.
    """
    stores = list(_stores(outputs))
    if not stores:
        raise NotFound(f"there is no store below {outputs.absolute()}: name one with --store")
    return max(stores, key=lambda store: (_holds_something(store), _last_written(store), str(store)))


def choose_model(registry: Registry, model: str | None) -> str:
    """Return the model that was named, else the only one in the store.

    Raises:
        NotFound: If it is not there, or there is not just one.
    """
    models = registry.models()
    if model is None and len(models) == 1:
        return models[0]
    if not models:
        raise NotFound("the store holds no version yet")
    if model is None or model not in models:
        asked = "name one with --model" if model is None else f"there is no {model!r}"
        raise NotFound(f"models in the store: {', '.join(models)}; {asked}")
    return model


def _stores(outputs: Path) -> Iterator[Path]:
    """Yield the stores below a folder; what goes meanwhile, or may not be listed, holds none."""
    for folder, names, _ in os.walk(outputs):
        store = Path(folder) / STORE
        if STORE in names and os.access(store / FORMAT_FILE, os.F_OK):
            names.remove(STORE)  # nothing in a store is another
            yield store


def _holds_something(store: Path) -> bool:
    """Whether a run got as far as its first version: one that failed before left an empty store."""
    try:
        return any((store / BLOBS_FOLDER).iterdir())
    except OSError:
        return False


def _last_written(store: Path) -> float:
    """Return when a store was written to; files of runs that end meanwhile go, as does the whole store."""
    times = [0.0]
    with suppress(OSError):
        for entry in store.iterdir():
            with suppress(OSError):
                times.append(entry.stat().st_mtime)
    return max(times)
