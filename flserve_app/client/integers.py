"""Integer tensors beside the floating ones, for what may only see the latter.

BatchNorm counts its batches in an int64 tensor. Clipping for privacy takes such a counter for a weight: it
dominates the norm, and nothing is left of the update. So integer tensors are taken out before and put back
after, in their place. A record without any is handed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Container

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict

from flserve_app.client.records import record_of

Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]


def is_integer(array: Array) -> bool:
    """Whether an array holds integers or booleans."""
    return np.dtype(array.dtype).kind in "biu"


def split(record: ArrayRecord, names: Container[str] = ()) -> tuple[ArrayRecord, dict[str, Array]]:
    """Return a record of the floating tensors, and the integer tensors by name; `names` are integer ones anyway."""
    integers = {name: array for name, array in record.items() if name in names or is_integer(array)}
    if not integers:
        return record, integers
    return record_of({name: array for name, array in record.items() if name not in integers}), integers


def join(floats: ArrayRecord, integers: dict[str, Array], order: list[str]) -> ArrayRecord:
    """Return one record in the given order; names it does not have come last."""
    both = {**floats, **integers}
    names = [name for name in order if name in both]
    return record_of({name: both[name] for name in [*names, *(name for name in both if name not in order)]})


def floats_only(mod: Mod) -> Mod:
    """Return a mod that sees floating tensors alone, while the app under it sees all.

    `ClientApp(mods=[versioned_mod, floats_only(fixedclipping_mod)])` clips what was learned, not the counters.
    """

    def around(message: Message, context: Context, call_next: Handler) -> Message:
        if not message.has_content() or not any(split(record)[1] for record in message.content.array_records.values()):
            return mod(message, context, call_next)
        sent = dict(message.content.array_records)
        kept: dict[str, dict[str, Array]] = {}

        def inside(inner: Message, inner_context: Context) -> Message:
            inner.content = _changed(inner.content, lambda key, record: _full(sent, key, record))
            reply = call_next(inner, inner_context)
            if reply.has_content():
                kept.update({key: split(record)[1] for key, record in reply.content.array_records.items()})
                reply.content = _changed(reply.content, lambda _, record: split(record)[0])
            return reply

        message.content = _changed(message.content, lambda _, record: split(record)[0])
        reply = mod(message, context, inside)
        if reply.has_content():
            order = [name for record in sent.values() for name in record]
            reply.content = _changed(reply.content, lambda key, record: join(record, kept.get(key, {}), order))
        return reply

    return around


def _full(sent: dict[str, ArrayRecord], key: str, record: ArrayRecord) -> ArrayRecord:
    return join(record, split(sent[key])[1], list(sent[key])) if key in sent else record


def _changed(content: RecordDict, change: Callable[[str, ArrayRecord], ArrayRecord]) -> RecordDict:
    return RecordDict(
        {key: change(key, value) if isinstance(value, ArrayRecord) else value for key, value in content.items()}
    )
