"""The keys of a configuration, and which of them somebody may have meant who typed another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from functools import cache
from typing import Any, get_type_hints

from flserve_app.config.schema import AppConfig

LEAST_LIKENESS = 0.7


@cache
def known_keys() -> tuple[str, ...]:
    """Return every key of the schema, dotted, branches too."""
    return tuple(_keys(AppConfig, ""))


def meant(key: str) -> str | None:
    """Return the key that is most like one that is not there, if any is.

    A key by its last part alone (`lr` for `train.lr`) is like enough; otherwise both are as deep.
    """
    last = key.rpartition(".")[2]
    named = [known for known in known_keys() if "." in known and known.rpartition(".")[2] == last]
    alike = [known for known in known_keys() if known.count(".") == key.count(".") and _likeness(known, key)]
    found = max(named or alike, key=lambda known: _likeness(known, key), default=None)
    return None if found == key else found


def _keys(schema: Any, path: str) -> Iterator[str]:
    types = get_type_hints(schema)
    for field in fields(schema):
        yield f"{path}{field.name}"
        if is_dataclass(types[field.name]):
            yield from _keys(types[field.name], f"{path}{field.name}.")


def _likeness(known: str, key: str) -> float:
    """Return how alike two keys are, 0 where it is not enough: by the last part, if they have the same branch."""
    (branch, _, name), (other, _, wanted) = known.rpartition("."), key.rpartition(".")
    ratio = SequenceMatcher(None, *((name, wanted) if branch == other else (known, key))).ratio()
    return ratio if ratio >= LEAST_LIKENESS else 0.0
