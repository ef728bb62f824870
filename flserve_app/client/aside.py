"""What flserve keeps in `context.state`, put aside while the app's own code runs.

An app may count, list, copy or clear the records of its state: it finds those that it wrote, and no others. Rules:
- The state stays the object that it is, so that a handler which kept hold of it writes to the right place.
- What the app puts in the state's place counts; flserve's records are put back into whatever is there afterwards.
- A client that asks what it holds meanwhile (`VersionedClient.predict` in `fit`) still gets its answer: `records_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Context, RecordDict

REFERENCES = "flserve.held"
ARRAYS = "flserve.arrays"
BESIDE = "flserve.leftover"
PRIVATE = "flserve.private"
SAID = "flserve.said"
TRAINED = "flserve.trained"
OWN = (REFERENCES, ARRAYS, BESIDE, PRIVATE, SAID, TRAINED)
_ASIDE = "_flserve_aside"


def records_of(context: Context) -> RecordDict:
    """Return where a context's records of flserve are now: its state, or what was put aside of it."""
    aside = vars(context).get(_ASIDE)
    return aside if isinstance(aside, RecordDict) else context.state


@contextmanager
def put_aside(context: Context) -> Iterator[None]:
    """Give the block a context whose state has the app's own records alone."""
    if _ASIDE in vars(context):  # a VersionedClient behind the mod
        yield
        return
    aside = RecordDict({name: context.state.pop(name) for name in OWN if name in context.state})
    vars(context)[_ASIDE] = aside
    try:
        yield
    finally:
        del vars(context)[_ASIDE]
        context.state.update(aside)
