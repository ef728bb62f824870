"""Names of models, runs and labels, and the keys that stand for models in the tables.

Names are short and plain, because they end up in paths, URLs and tables. A label must not read like a version
number or a digest, so that `v12`, `12`, `3fa9c1` and `stable` can stand in one place.
"""

from __future__ import annotations

import re

from sqlalchemy import Connection, insert, select, update

from flserve_app.errors import NotFound, StoreError
from flserve_app.store.bounds import MAX_NUMBER
from flserve_app.store.schema import models
from flserve_app.store.version import LATEST
from flserve_app.text import is_plain, plain

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
MOST_SAID = 1000  # characters
_NUMBER_OR_DIGEST = re.compile(r"v?[0-9]+|[0-9a-f]{6,64}")


def check_name(what: str, name: str) -> None:
    """Check that a model's name or a run's id is plain.

    Raises:
        StoreError: If it is not.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise StoreError(
            f"{what} is 1 to 128 letters, digits, dots, dashes or underscores, starting with a letter or digit; "
            f"found {plain(name, 140)!r}"
        )


def check_label(name: str) -> None:
    """Check that people may move a label of this name.

    Raises:
        StoreError: If they may not.
    """
    if name == LATEST:
        raise StoreError(f"the label {LATEST!r} follows every publication by itself; choose another name")
    if _LABEL.fullmatch(name) is None or _NUMBER_OR_DIGEST.fullmatch(name):
        raise StoreError(
            "a label is 1 to 64 letters, digits, dots, dashes or underscores, starts with a letter and does not "
            f"read like a version number or a digest; found {plain(name, 80)!r}"
        )


def check_said(what: str, text: str) -> None:
    """Check that what people say about a move can be shown as one line; they need not say anything.

    Raises:
        StoreError: If it cannot.
    """
    if not isinstance(text, str) or (text and not is_plain(text, MOST_SAID)):
        raise StoreError(f"{what} is at most {MOST_SAID} printable characters, found {plain(text, 80)!r}")


def model_key(connection: Connection, model: str) -> int:
    """Return the key of a model.

    Raises:
        NotFound: If it is not there.
    """
    found = connection.execute(select(models.c.id).where(models.c.name == model)).scalar()
    if found is None:
        raise NotFound(f"model {model!r} is not in the store")
    return int(found)


def ensure_model(connection: Connection, model: str) -> int:
    """Return the key of a model, which is made if it is new."""
    check_name("a model's name", model)
    if connection.execute(select(models.c.id).where(models.c.name == model)).scalar() is None:
        connection.execute(insert(models).values(name=model, next_number=0))
    return model_key(connection, model)


def next_number(connection: Connection, key: int) -> int:
    """Take the next version number of a model; the row stays locked until the transaction ends."""
    connection.execute(update(models).where(models.c.id == key).values(next_number=models.c.next_number + 1))
    found = connection.execute(select(models.c.next_number).where(models.c.id == key)).scalar_one()
    if type(found) is not int or not 0 < found <= MAX_NUMBER:
        raise StoreError(f"catalog: a model's next number is {plain(found, 40)}: it was damaged from outside")
    return found - 1
