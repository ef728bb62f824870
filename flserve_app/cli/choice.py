"""Which store and which model a command is about, when it is not told.

Right after a run, `flserve log` shows that run: the newest store below `outputs/` is taken, and said on stderr.
`FLSERVE_OUTPUTS` names another place than the current folder for runs, `FLSERVE_STORE` one store for all commands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from flserve_app.errors import ConfigError, NotFound
from flserve_app.places import OUTPUTS, OUTPUTS_VARIABLE, outputs, project_outputs
from flserve_app.registry import Registry
from flserve_app.registry.layout import BLOBS_FOLDER, FORMAT_FILE, STORE_FOLDER, is_store, store_at
from flserve_app.text import plain


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
        path = newest_store(*run_places())
        typer.echo(f"store: {plain(path)}", err=True)
    return store_at(path)


def run_places() -> tuple[Path, ...]:
    """Return the folders to look for runs in: the first that has any counts. Raises ConfigError."""
    if os.environ.get(OUTPUTS_VARIABLE):
        return (outputs(),)
    try:
        elsewhere = project_outputs() / OUTPUTS  # where `flwr run` puts its own
    except ConfigError:
        return (outputs(),)
    return (outputs(), elsewhere)


def open_target(path: Path | None) -> Registry:
    """Open a store to put something in: as `open_store` does, but one that was named is made if it is not there.

    Raises:
        NotFound: If none was named and there is none.
        StoreError: If it cannot be opened or made.
    """
    return open_store(path) if path is None else Registry.open(store_at(path))


def is_new(path: Path | None) -> bool:
    """Whether `open_target` would make a store. Raises StoreError if that cannot be found out."""
    return path is not None and not is_store(store_at(path))


def newest_store(*places: Path) -> Path:
    """Return the store below a folder that was written to last; one that holds something goes first.

    Args:
        places: The folders to look below; the first that has a store counts.

    Raises:
        NotFound: If there is none.
    """
    stores = next(filter(None, (list(_stores(place)) for place in places)), [])
    if not stores:
        below = " or ".join(str(place.absolute()) for place in places)
        raise NotFound(f"there is no store below {below}: name one with --store or in FLSERVE_STORE")
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
        store = Path(folder) / STORE_FOLDER
        if STORE_FOLDER in names and os.access(store / FORMAT_FILE, os.F_OK):
            names.remove(STORE_FOLDER)  # nothing in a store is another
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
