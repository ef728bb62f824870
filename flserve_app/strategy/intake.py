"""Reading clients' replies: updates back to full ArrayRecords.

Rules:
- An update is decoded against the artifact that was delivered, and only that: a client that names another
  base is told to start over.
- What reaches the strategy is what the client's app wrote: the same records, with the arrays bit for bit.
- An update may be larger than the model it came from (other dtypes, further tensors), but not by orders: what
  a client declares or sends, in bytes, tensors and entries, is bounded before it is looked at.
- A reply that is an error stays an error; it is logged and counted here, once.
- A reply that is refused for its size is counted by the bytes of its arrays: to measure it would cost too much.
"""

from __future__ import annotations

import re
import time
from logging import WARNING
from typing import final

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.logger import log

from flserve_app.artifact import Artifact
from flserve_app.client.object_size import record_bytes
from flserve_app.client.records import to_record
from flserve_app.client.tensor_array import serialised_bytes
from flserve_app.client.wire import PAYLOAD, RECORD, Answer, take_answer
from flserve_app.codec import decode
from flserve_app.codec.finer import Loss
from flserve_app.errors import DeliveryError, ReplyLost, WrongBase
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.older_api import CLIENT_HINT, is_older_client
from flserve_app.strategy.parcel import Parcel
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.pulls import is_lost
from flserve_app.strategy.settlements import Settlements
from flserve_app.strategy.whole_models import whole_of
from flserve_app.text import plain

LARGEST_FACTOR = 8
LARGEST_EXTRA = 16 << 20
EXTRA_TENSORS = 64
MOST_RECORDS = 64
LONGEST_REASON = 1 << 16
FRAMED = re.compile(r"<class '([\w.]+)'>:<'(.*)'>", re.DOTALL)  # how Flower's nodes say what was raised
MOST_ENTRIES = 4096  # of its metrics and configs together


@final
class Intake:
    """Turns replies into what the strategy expects, and counts them.

    Args:
        publisher: Where the bases come from.
        ledger: Where bytes and seconds are counted.
        settlements: Where it is noted what an update leads to.
    """

    def __init__(self, publisher: Publisher, ledger: Ledger, settlements: Settlements) -> None:
        self._settlements = settlements
        self._publisher = publisher
        self._ledger = ledger
        self._hinted = False

    def read(self, reply: Message, parcel: Parcel) -> tuple[Message, Answer | None]:
        """Return a reply with full arrays, and the client's answer if it gave one.

        Raises:
            ReplyLost: If the reply could not be taken from the Grid.
            DeliveryError: If the answer is malformed.
            FlserveError: If the update cannot be decoded and verified.
        """
        if is_lost(reply):
            raise ReplyLost(str(reply.error.reason))
        self._check_size(reply, parcel)
        size = message_bytes(reply)
        if reply.has_error():
            self._ledger.sent("up", payload=0, message=size, full=0)
            self._ledger.failed()
            self._tell(parcel, str(reply.error.reason or ""))
            return reply, None
        content = RecordDict(dict(reply.content))
        answer = take_answer(content) or _implied(parcel)
        _check_answer(answer)
        if answer is None or answer.payload is None:
            plain = sum(map(record_bytes, content.array_records.values()))
            self._ledger.sent("up", payload=plain, message=size, full=plain)
        else:
            further = sum(map(record_bytes, content.array_records.values()))
            self._ledger.sent("up", payload=len(answer.payload.data) + further, message=size, full=further)
            trained = self._decode(answer, parcel)
            self._ledger.rounded("up", Loss(lost=answer.lost, halvings=answer.halvings))
            record = to_record(trained)
            self._settlements.took(reply, parcel.identity, trained.digest)
            self._ledger.sent("up", payload=0, message=0, full=whole_of(record, trained).nbytes)
            records = list(content.items())
            records.insert(answer.place, (answer.arrays, record))
            content = RecordDict(dict(records))
        if answer is not None:
            self._ledger.answered(fetch=answer.fetch_seconds, train=answer.train_seconds, update=answer.encode_seconds)
        reply.content = content
        return reply, answer

    def _tell(self, parcel: Parcel, reason: str) -> None:
        """Log what a client failed with; once a run, what to do about clients of Flower's older API."""
        log(WARNING, "flserve: node %d failed: %s", parcel.node_id, last_line(reason))
        if not self._hinted and is_older_client(reason[-LONGEST_REASON:]):
            self._hinted = True
            log(WARNING, "flserve: %s", CLIENT_HINT)

    def _check_size(self, reply: Message, parcel: Parcel) -> None:
        """Refuse a reply to a delivery that is out of all proportion to the model. Raises DeliveryError."""
        if not parcel.arrays or not reply.has_content():
            return  # the app's own exchange
        records = list(reply.content.values())
        arrays = [record for record in records if isinstance(record, ArrayRecord)]
        tensors = sum(map(len, arrays))
        nbytes = sum(serialised_bytes(each) for record in arrays for each in record.values())
        for what, number, most in (
            ("records", len(records), MOST_RECORDS),
            ("tensors", tensors, self._most_tensors),
            ("metrics and configs", sum(map(len, records)) - tensors, MOST_ENTRIES),
            ("bytes of tensors", nbytes, self._most_bytes),
        ):
            if number > most:
                self._ledger.sent("up", payload=0, message=nbytes, full=0)
                raise DeliveryError(f"its reply has {number} {what}, at most {most} are accepted of this model")

    @property
    def _most_tensors(self) -> int:
        return LARGEST_FACTOR * len(self._publisher.artifact) + EXTRA_TENSORS

    @property
    def _most_bytes(self) -> int:
        return LARGEST_FACTOR * self._publisher.artifact.nbytes + LARGEST_EXTRA

    def _decode(self, answer: Answer, parcel: Parcel) -> Artifact:
        if answer.payload is None or not answer.arrays:
            raise DeliveryError(f"{answer.identity} sent an update without a name for its arrays")
        if answer.base != parcel.target:
            raise WrongBase(
                f"{answer.identity} sent an update relative to {answer.base[:12]}, expected {parcel.target[:12]}"
            )
        started = time.perf_counter()
        base = self._publisher.base(answer.base)
        trained = decode(answer.payload.data, base, max_bytes=self._most_bytes, max_tensors=self._most_tensors)
        self._ledger.spent("decode", time.perf_counter() - started)
        return trained


def _implied(parcel: Parcel) -> Answer | None:
    """Return what a client says by a reply without an answer, where it may leave that out: it followed."""
    return None if parcel.implied is None else Answer(status="ok", identity=parcel.identity, held=parcel.implied)


def _check_answer(answer: Answer | None) -> None:
    """Refuse what no client answers to a delivery. Raises DeliveryError."""
    if answer is None:
        return
    if answer.status == "hello":
        raise DeliveryError(f"{answer.identity} answers a delivery as if it were a greeting")
    if answer.arrays in (RECORD, PAYLOAD):
        raise DeliveryError(f"{answer.identity} names its arrays {answer.arrays!r}, which is the protocol's own")


def last_line(reason: str) -> str:
    """Return the end of a traceback, which says what it was."""
    if framed := FRAMED.fullmatch(reason):
        reason = ": ".join(framed.groups())
    lines = [line for line in map(plain, reason[-LONGEST_REASON:].splitlines()) if line]
    return lines[-1] if lines else "no reason given"
