"""A reply that the others cannot be averaged with costs that reply, not the round.

Flower's strategies check that all replies have the same keys and end the run if one has not. So replies are
looked at one by one before: what does not fit the model, or differs in form from most others, is left out.
Values are not judged: a model that diverged is the strategy's business.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from flserve_app.artifact import Artifact, TensorSpec, dtype_named
from flserve_app.client.records import read_array, record_of
from flserve_app.errors import ArtifactError, DeliveryError

Form = tuple[tuple[str, ...], tuple[tuple[str, int], ...]]


def screen(
    replies: Sequence[Message], like: Artifact | None, numbers: Sequence[str]
) -> tuple[list[Message], list[tuple[Message, str]]]:
    """Return the replies that can be averaged, and the others with the reason in a sentence.

    Args:
        replies: Replies without errors.
        like: The model their arrays have to fit; None for replies without arrays.
        numbers: Metrics that a strategy reads from each reply: finite numbers of 0 or more.
    """
    forms: list[Form | None] = []
    odd: list[tuple[Message, str]] = []
    for reply in replies:
        try:
            forms.append(_form(reply, like, numbers))
        except (ArtifactError, DeliveryError) as error:
            forms.append(None)
            odd.append((reply, str(error)))
    counted = Counter(form for form in forms if form is not None)
    usual = counted.most_common(1)[0][0] if counted else None
    fine = [reply for reply, form in zip(replies, forms, strict=True) if form is not None and form == usual]
    other = [reply for reply, form in zip(replies, forms, strict=True) if form is not None and form != usual]
    odd += [(reply, "its tensors or metrics have other names than most replies") for reply in other]
    if numbers and fine and not any(_metrics(reply)[numbers[0]] for reply in fine):
        return [], [*odd, *((reply, f"no reply has a {numbers[0]!r} above 0") for reply in fine)]
    return fine, odd


def _form(reply: Message, like: Artifact | None, numbers: Sequence[str]) -> Form:
    names: tuple[str, ...] = ()
    if like is not None:
        records = list(reply.content.array_records.items())
        if len(records) != 1:
            raise DeliveryError(f"it has {len(records)} ArrayRecords, expected 1")
        record = _checked(records[0][1], like)
        if list(record) != list(records[0][1]):
            reply.content[records[0][0]] = record
        names = tuple(record)
    metrics = _metrics(reply)
    for name in numbers:
        value = metrics.get(name)
        if not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise DeliveryError(f"its metric {name!r} is {value!r}, expected a finite number of 0 or more")
    lengths = ((name, len(value) if isinstance(value, list) else -1) for name, value in metrics.items())
    return names, tuple(sorted(lengths))


def _metrics(reply: Message) -> MetricRecord:
    records = list(reply.content.metric_records.values())
    if len(records) != 1:
        raise DeliveryError(f"it has {len(records)} MetricRecords, expected 1")
    return records[0]


def _checked(record: ArrayRecord, like: Artifact) -> ArrayRecord:
    """Return a record in the model's order: some strategies pair tensors by position."""
    if missing := [name for name in like if name not in record]:
        raise ArtifactError(f"it lacks tensor {missing[0]!r}")
    for name, spec in like.specs.items():
        _fits(read_array(name, record[name]), spec)
    if list(record)[: len(like)] == list(like):
        return record
    further = sorted(name for name in record if name not in like)
    return record_of({name: record[name] for name in [*like, *further]})


def _fits(values: np.ndarray[Any, np.dtype[Any]], spec: TensorSpec) -> None:
    if values.shape != spec.shape:
        raise ArtifactError(f"its {spec.name!r} has shape {values.shape}, expected {spec.shape}")
    if values.dtype.kind not in "biufc":
        raise ArtifactError(f"its {spec.name!r} is {values.dtype}, expected {spec.dtype}")
    storage = dtype_named(spec.dtype).storage
    if dtype_named(spec.dtype).kind == "float" or values.dtype == storage or not values.size:
        return
    low, high = (0, 1) if storage.kind == "b" else (np.iinfo(storage).min, np.iinfo(storage).max)
    if not np.all(np.isfinite(values)) or float(values.min()) < low or float(values.max()) > high:
        raise ArtifactError(f"its {spec.name!r} is not finite or out of the range of {spec.dtype}")
