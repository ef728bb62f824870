"""Integer tensors beside a strategy that would clip, scale or add noise to them.

Rules:
- It is given floats alone; integers are averaged beside it, weighted as it weighs replies.
- Of numbers in the range of a dtype, rounding and momentum may lead out of it: an aggregate is brought back.
- What it changes in the floats it was given is changed in the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.differential_privacy import get_norm

from flserve_app.artifact import Artifact
from flserve_app.client.integers import is_integer, join, split
from flserve_app.client.records import read_array, record_of, to_record
from flserve_app.strategy.in_place import take_over
from flserve_app.strategy.reply_metrics import weight_of
from flserve_app.strategy.reply_tensors import is_integral, within


def set_aside(replies: Sequence[Message], like: Artifact, weighted_by: str | None) -> dict[str, Array]:
    """Take the integer tensors out of the replies; returns their weighted means, float64."""
    beside = {name for name, spec in like.specs.items() if is_integral(spec)}
    means: dict[str, np.ndarray[Any, Any]] = {}
    weights = [weight_of(reply, weighted_by) for reply in replies]
    for reply, weight in zip(replies, weights, strict=True):
        content = dict(reply.content)
        for key, record in reply.content.array_records.items():
            content[key], integers = split(record, beside)
            for name, array in integers.items():
                share = array.numpy() * (weight / sum(weights))
                means[name] = means[name] + share if name in means else share
        reply.content = RecordDict(content)
    return {name: Array(np.asarray(mean)) for name, mean in means.items()}


def in_range(arrays: ArrayRecord, like: Artifact) -> ArrayRecord:
    """Return an aggregate whose integer tensors fit the model's dtypes, as all did that it was made of."""
    for name, spec in like.specs.items():
        if is_integral(spec) and name in arrays:
            mean = read_array(name, arrays[name])
            fitting = within(mean, spec)
            if not np.array_equal(mean, fitting, equal_nan=mean.dtype.kind == "f"):
                arrays = record_of({**arrays, name: Array(fitting)})
    return arrays


def has_no_norm(reply: Message, like: Artifact) -> bool:
    """Whether a reply is the model it was given, or too near for its norm to be a number: clipping divides by it."""
    given = {name: array.numpy() for name, array in to_record(like).items() if not is_integer(array)}
    (trained,) = reply.content.array_records.values()
    with np.errstate(all="ignore"):
        return get_norm([np.asarray(trained[name].numpy() - values) for name, values in given.items()]) == 0


def put_together(
    messages: Sequence[Message], floats: ArrayRecord, arrays: ArrayRecord, integers: Mapping[str, Array]
) -> None:
    """Put the whole model where a strategy put the floats it was given, changed as it changed those.

    Args:
        messages: What the strategy configured.
        floats: What it was given.
        arrays: The whole model, which is changed in place.
        integers: What of it the strategy was not given.
    """
    take_over(floats, arrays, kept=integers)
    for message in messages:
        records = message.content.array_records
        given = {key: arrays for key, record in records.items() if record is floats}
        copies = (key for key, record in records.items() if list(record) == list(floats))
        if not given and (key := next(copies, None)) is not None:
            given = {key: join(records[key], dict(integers), list(arrays))}
        message.content = RecordDict({**message.content, **given})
