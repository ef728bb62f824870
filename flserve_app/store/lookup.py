"""What people ask for, each question answered in one transaction: a version by a name of it, the newest of a history.

A name is `latest`, a label, `v12`, `12`, or the start of a digest. A label can read neither like a number nor like a
digest, so nothing is ambiguous but a digest that was published twice: it then names its newest version. What belongs
together is read together: a label read before or after the versions stands at one that is not among them, or at
the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select

from flserve_app.errors import NotFound
from flserve_app.store import rows
from flserve_app.store.bounds import MAX_NUMBER
from flserve_app.store.schema import labels, models, versions
from flserve_app.store.version import Version

_NUMBER = re.compile(r"v?([0-9]{1,18})")
_DIGEST = re.compile(r"[0-9a-f]{6,64}")
_AFTER_HEX = "g"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Versions of a model and the labels as they stood then.

    Attributes:
        versions: The newest ones that were asked for, by number.
        labels: Label to number, of all versions.
        total: How many versions there are.
    """

    versions: tuple[Version, ...]
    labels: Mapping[str, int]
    total: int


def of_model(model: str) -> Select[Any]:
    """Return the query of a model's versions."""
    return rows.VERSIONS.where(models.c.name == model)


def labels_of(connection: Connection, model: str) -> dict[str, int]:
    """Return the labels of a model and the numbers they stand at, by name."""
    query = select(labels.c.name, labels.c.number).join(models, labels.c.model_id == models.c.id)
    found = connection.execute(query.where(models.c.name == model).order_by(labels.c.name))
    return dict(rows.label(row) for row in found)


def models_of(connection: Connection) -> tuple[str, ...]:
    """Return the names of the models that have a version, sorted."""
    query = select(models.c.name).where(models.c.id.in_(select(versions.c.model_id))).order_by(models.c.name)
    return tuple(connection.execute(query).scalars())


def history(connection: Connection, model: str, limit: int | None) -> History:
    """Return the newest versions of a model, at most `limit`."""
    most = None if limit is None else min(limit, MAX_NUMBER + 1)  # a database counts no further than 64 bits
    newest = connection.execute(of_model(model).order_by(versions.c.number.desc()).limit(most)).all()
    return History(
        versions=tuple(rows.version(row) for row in reversed(newest)),
        labels=labels_of(connection, model),
        total=_span(connection, model)[0],
    )


def resolve(connection: Connection, model: str, refs: Iterable[str]) -> tuple[Version, ...]:
    """Return the versions that names stand for.

    Raises:
        NotFound: If one stands for none or several; the message names the choices.
    """
    return tuple(_resolve(connection, model, ref) for ref in refs)


def between(connection: Connection, model: str, first: str, last: str) -> tuple[Version, ...]:
    """Return the versions from one name to another, by number. Raises NotFound."""
    ends = resolve(connection, model, (first, last))
    query = of_model(model).where(versions.c.number.between(ends[0].number, ends[1].number))
    return tuple(rows.version(row) for row in connection.execute(query.order_by(versions.c.number)))


def _resolve(connection: Connection, model: str, ref: str) -> Version:
    label = select(labels.c.number).where(labels.c.model_id == versions.c.model_id, labels.c.name == ref)
    row = connection.execute(of_model(model).where(versions.c.number == label.scalar_subquery())).one_or_none()
    if row is None and (match := _NUMBER.fullmatch(ref)):
        row = connection.execute(of_model(model).where(versions.c.number == int(match[1]))).one_or_none()
    if row is None and _DIGEST.fullmatch(ref):
        # From the start to the last digest that begins so, which the index of digests finds.
        starts = of_model(model).where(versions.c.digest >= ref, versions.c.digest < ref + _AFTER_HEX)
        row = connection.execute(starts.order_by(versions.c.number.desc()).limit(1)).one_or_none()
        query = select(func.count(versions.c.digest.distinct())).join(models, versions.c.model_id == models.c.id)
        query = query.where(models.c.name == model, versions.c.digest >= ref, versions.c.digest < ref + _AFTER_HEX)
        if (count := connection.execute(query).scalar_one()) > 1:
            raise NotFound(f"{ref!r} is the start of {count} digests of model {model!r}; add digits")
    if row is None:
        raise NotFound(_nothing(connection, model, ref))
    return rows.version(row)


def _nothing(connection: Connection, model: str, ref: str) -> str:
    count, first, last = _span(connection, model)
    if not count:
        return f"model {model!r} is not in the store; its models: {', '.join(models_of(connection)) or 'none'}"
    span = f"v{first}" if count == 1 else f"v{first} to v{last}"
    named = ", ".join(f"{label} (v{number})" for label, number in labels_of(connection, model).items())
    return (
        f"model {model!r} has no version {ref!r}; it has {span}, labels {named}, and digests by their first 6 or more "
        "digits"
    )


def _span(connection: Connection, model: str) -> tuple[int, int, int]:
    """Return how many versions a model has, and the lowest and the highest number."""
    query = select(func.count(), func.min(versions.c.number), func.max(versions.c.number))
    found = connection.execute(query.select_from(versions).join(models).where(models.c.name == model)).one()
    return found[0], found[1] or 0, found[2] or 0
