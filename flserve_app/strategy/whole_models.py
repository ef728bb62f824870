"""Models as Flower sends them, and when a message goes as it would without flserve.

Rules:
- What a model takes in full are its ArrayRecord's distinct objects, as Flower carries them: tied weights once.
- A message that takes more bytes with its delivery than as the strategy wrote it goes as the strategy wrote it, to a
  client that then answers as without flserve. So a tiny model costs no more than it would, greetings aside.
- Beside the message counts what an answer adds to the reply. Where an update comes back, the client itself sends
  whichever is smaller; nothing is added then.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.client.object_size import carried_bytes, object_bytes, record_bytes
from flserve_app.client.wire import Answer, put_answer
from flserve_app.codec.ties import ties_of
from flserve_app.strategy.parcel import Parcel

MOST_OVERHEAD = 4096  # what a delivery takes beside its payloads, at most
_PAYLOAD_OVERHEAD = 512
_MOST_KEPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A model as it would be sent without flserve.

    Attributes:
        nbytes: Bytes of the distinct objects of its ArrayRecord.
        tied: Whether it has tensors that are the same.
    """

    nbytes: int
    tied: bool


def whole_of(record: ArrayRecord, artifact: Artifact) -> Whole:
    """Return what a record takes, whose tensors are an artifact's."""
    ties = ties_of(artifact)
    return Whole(nbytes=record_bytes(record, ties), tied=bool(ties))


@final
class WholeModels:
    """The models of the last messages: measured once, however many they are."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Whole] = OrderedDict()

    def measured(self, record: ArrayRecord, artifact: Artifact) -> Whole:
        """Return what a record takes, whose tensors are an artifact's."""
        found = self._kept.get(artifact.digest)
        if found is None:
            found = self._kept[artifact.digest] = whole_of(record, artifact)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return found


def costs_more(delivered: RecordDict, parcel: Parcel, payloads: int, nbytes: int) -> bool:
    """Return whether a message takes more bytes with a delivery than as the strategy wrote it.

    Args:
        delivered: Its content with the delivery.
        parcel: What the strategy wrote.
        payloads: How many payloads it has.
        nbytes: Their bytes.
    """
    if nbytes + MOST_OVERHEAD + payloads * _PAYLOAD_OVERHEAD < parcel.full:
        return False  # of nearly all models: nothing is measured
    answer = 0 if parcel.message_type.split(".")[0] == "train" else _answer_bytes(parcel)
    plain = carried_bytes(parcel.content, {parcel.arrays: parcel.full})
    return carried_bytes(delivered) + answer > plain


def _answer_bytes(parcel: Parcel) -> int:
    """Return what an answer adds to a reply that has something else in it."""
    answer = Answer(
        status="ok",
        identity=parcel.identity,
        partitions=1,
        held=(parcel.target,),
        base=parcel.target,
        fetch_seconds=1.0,
        train_seconds=1.0,
        encode_seconds=1.0,
    )
    without = RecordDict({"metrics": ConfigRecord()})
    content = RecordDict(dict(without))
    put_answer(content, answer)
    return object_bytes(content) - object_bytes(without)
