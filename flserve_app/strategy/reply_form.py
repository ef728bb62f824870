"""The form that replies have to have for Flower's own aggregation: which tensors, of which shapes.

Flower takes it from the first reply. Rules:
- It is the model's, unless two replies or more, and more than half of all, share another one (clients that keep some
  tensors to themselves, train a part, or send what is no model): then it is theirs, as without versions. Nobody's reply
  alone says how the others, or the model, have to look.
- Tensors that the model has in that shape keep its dtype and its order; others are as those replies have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from flwr.app import ArrayRecord, Message

from flserve_app.artifact import Artifact, TensorSpec
from flserve_app.client.records import read_array
from flserve_app.strategy.reply_failure import failure

Specs = Mapping[str, TensorSpec]


def form_of(replies: Sequence[Message], like: Artifact) -> Specs:
    """Return the specs of the tensors that a reply has to have, by name, in order.

    Args:
        replies: All that came without an error.
        like: The model.
    """
    forms = [_specs(reply, like.specs) for reply in replies]
    counted = Counter(frozenset(form.items()) for form in forms if form is not None)
    if not counted:
        return like.specs
    usual, votes = counted.most_common(1)[0]
    if votes < 2 or 2 * votes <= len(replies) or usual == frozenset(like.specs.items()):
        return like.specs
    first = next(form for form in forms if form is not None and frozenset(form.items()) == usual)
    order = [*(name for name in like if name in first), *(name for name in first if name not in like)]
    return {name: first[name] for name in order}


def _specs(reply: Message, model: Specs) -> dict[str, TensorSpec] | None:
    """Return the specs of a reply's tensors; None of one that has none, or cannot be read."""
    records = list(reply.content.array_records.values())
    if len(records) != 1 or not records[0]:
        return None
    try:
        return _of_record(records[0], model)
    except Exception as error:  # noqa: BLE001 one stranger's reply: what is wrong with it is said where it is screened
        failure(error)
        return None


def _of_record(record: ArrayRecord, model: Specs) -> dict[str, TensorSpec]:
    found: dict[str, TensorSpec] = {}
    for name, array in record.items():
        values = read_array(name, array)
        known = model.get(name)
        same = known is not None and known.shape == values.shape
        found[name] = known if same and known is not None else TensorSpec(name, values.dtype.name, values.shape)
    return found
