"""Reading clients' replies: updates back to full ArrayRecords.

Rules:
- An update is decoded against the artifact that was delivered, and only that: a client that names another
  base is told to start over.
- What reaches the strategy is what the client's app wrote: the same records, with the arrays bit for bit.
- An update may be larger than the model it came from (other dtypes, further tensors), but not by orders: what
  a client declares is bounded before it is decoded.
- A reply that is an error stays an error; it is logged and counted here, once.
"""

from __future__ import annotations

import re
import time
from logging import WARNING
from typing import final

from flwr.app import Message, RecordDict
from flwr.common.logger import log

from flserve_app.artifact import Artifact
from flserve_app.client.records import to_record
from flserve_app.client.tensor_array import serialised_bytes
from flserve_app.client.wire import Answer, take_answer
from flserve_app.codec import decode
from flserve_app.errors import DeliveryError, WrongBase
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.parcel import Parcel
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.settlements import Settlements

LARGEST_FACTOR = 8
LARGEST_EXTRA = 16 << 20
EXTRA_TENSORS = 64
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


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

    def read(self, reply: Message, parcel: Parcel) -> tuple[Message, Answer | None]:
        """Return a reply with full arrays, and the client's answer if it gave one.

        Raises:
            DeliveryError: If the answer is malformed.
            FlserveError: If the update cannot be decoded and verified.
        """
        size = message_bytes(reply)
        if reply.has_error():
            self._ledger.sent("up", payload=0, message=size, full=0)
            self._ledger.failed()
            log(WARNING, "flserve: node %d failed: %s", parcel.node_id, _one_line(reply.error.reason or ""))
            return reply, None
        content = RecordDict(dict(reply.content))
        answer = take_answer(content)
        if answer is None or answer.payload is None:
            plain = sum(serialised_bytes(each) for record in content.array_records.values() for each in record.values())
            self._ledger.sent("up", payload=plain, message=size, full=plain)
        else:
            self._ledger.sent("up", payload=len(answer.payload.data), message=size, full=0)
            trained = self._decode(answer, parcel)
            record = to_record(trained)
            self._settlements.took(reply, parcel.identity, trained.digest)
            self._ledger.sent("up", payload=0, message=0, full=sum(map(serialised_bytes, record.values())))
            content = RecordDict({answer.arrays: record, **content})
        if answer is not None:
            self._ledger.answered(fetch=answer.fetch_seconds, train=answer.train_seconds, update=answer.encode_seconds)
        reply.content = content
        return reply, answer

    def _decode(self, answer: Answer, parcel: Parcel) -> Artifact:
        if answer.payload is None or not answer.arrays:
            raise DeliveryError(f"{answer.identity} sent an update without a name for its arrays")
        if answer.base != parcel.target:
            raise WrongBase(
                f"{answer.identity} sent an update relative to {answer.base[:12]}, expected {parcel.target[:12]}"
            )
        started = time.perf_counter()
        base = self._publisher.base(answer.base)
        most = LARGEST_FACTOR * base.nbytes + LARGEST_EXTRA
        trained = decode(answer.payload.data, base, max_bytes=most, max_tensors=len(base) + EXTRA_TENSORS)
        self._ledger.spent("decode", time.perf_counter() - started)
        return trained


def _one_line(reason: str) -> str:
    lines = [line.strip() for line in _ANSI.sub("", reason).splitlines() if line.strip()]
    return (lines[-1] if lines else "no reason given")[:300]
