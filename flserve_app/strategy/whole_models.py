"""Models as Flower sends them, and when a message goes as it would without flserve.

Rules:
- What a model takes in full are its ArrayRecord's distinct objects, as Flower carries them: tied weights once.
- A message that takes more bytes with its delivery, however it is put, than as the strategy wrote it goes as the
  strategy wrote it, to a client that then answers as without flserve. So a tiny model costs no more than it would,
  greetings aside.
- Of models up to some size a client may do the same with its update, and leave out the answer to an evaluation that
  would otherwise take more than without flserve. A reply without an answer then says that the client followed: who does
  not follow answers with a refusal.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import final

from flwr.app import ArrayRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.client.object_size import carried_bytes, record_bytes
from flserve_app.codec.ties import ties_of
from flserve_app.strategy.parcel import Parcel

MOST_TINY = 1 << 16  # bytes of a model beside which those that an update carries with it count
ANSWER_BYTES = 400  # what an answer adds to a reply, about
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


def costs_more(delivered: RecordDict, parcel: Parcel, payloads: int, nbytes: int, more: int = 0) -> bool:
    """Return whether a message takes more bytes with a delivery than as the strategy wrote it.

    Args:
        delivered: Its content with the delivery.
        parcel: What the strategy wrote.
        payloads: How many payloads it has.
        nbytes: Their bytes.
        more: What else it takes.
    """
    if nbytes + MOST_OVERHEAD + payloads * _PAYLOAD_OVERHEAD < parcel.full:
        return False  # of nearly all models: nothing is measured
    return carried_bytes(delivered) + more > carried_bytes(parcel.content, {parcel.arrays: parcel.full})
