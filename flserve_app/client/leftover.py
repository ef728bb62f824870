"""What rounding left out of a client's updates, kept until it is known what became of them.

An update takes the residual with it, and leaves a rest. Both are pending, under the digest of what the update
leads to, until the server says more:
- If the update was aggregated, its rest is (added to) the residual, and what it took with it has arrived.
- If it was not, its rest counts for nothing, and what it took with it is the residual again.
- If the server may still use it (a late reply), it stays pending, and the next update takes nothing of it along.

So nothing is lost and nothing is counted twice, whatever becomes of a reply. The bytes are SHA-256 of a head, 4
bytes of the head's length, the head (JSON: the model's structure, and what the parts are), and a full payload a
part. What does not verify is as good as absent, and so is what belongs to a model of another structure.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from flserve_app.artifact import Artifact
from flserve_app.codec import decode, encode_parts
from flserve_app.codec.feedback import both
from flserve_app.errors import FlserveError

MOST_PENDING = 4
_LENGTH = struct.Struct("<I")
_SUM_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """An update of which it is not known whether it was aggregated.

    Attributes:
        update: Hex digest of what it leads to.
        carried: The residual it took with it; None if there was none.
        rest: What was left out of it.
    """

    update: str
    carried: Artifact | None
    rest: Artifact | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leftover:
    """What is left of a client's updates to one model.

    Attributes:
        residual: What the next update takes with it.
        pending: The updates that are not settled, oldest first.
    """

    residual: Artifact | None = None
    pending: tuple[Pending, ...] = ()

    def settled(self, aggregated: Collection[str], *, owed: bool) -> Leftover:
        """Return what is left once the server has said what it knows.

        Args:
            aggregated: Digests of the updates that were aggregated.
            owed: Whether it may still use others.
        """
        if not self.pending:
            return self
        residual, pending = self.residual, []
        for each in self.pending:
            if each.update in aggregated:
                residual = both(residual, each.rest)
            elif owed:
                pending.append(each)
            else:
                residual = both(residual, each.carried)
        return Leftover(residual=residual, pending=tuple(pending))

    def sent(self, update: str, rest: Artifact | None) -> Leftover:
        """Return what is left after an update that took the residual with it; the oldest of too many are forgotten."""
        latest = Pending(update=update, carried=self.residual, rest=rest)
        return Leftover(pending=(*self.pending, latest)[-MOST_PENDING:])

    def to_bytes(self, structure: str) -> list[bytes | memoryview]:
        """Return it in parts, which are the tensors' own memory where they can be.

        Args:
            structure: As `structure_of` gives it.
        """
        payloads = [[] if part is None else list(encode_parts(part, None, "full")) for part in self._parts()]
        sizes = [sum(map(len, payload)) for payload in payloads]
        updates = [each.update for each in self.pending]
        head = json.dumps({"structure": structure, "updates": updates, "sizes": sizes}).encode()
        return [hashlib.sha256(head).digest(), _LENGTH.pack(len(head)), head, *chain(*payloads)]

    def _parts(self) -> Iterator[Artifact | None]:
        yield self.residual
        for each in self.pending:
            yield each.carried
            yield each.rest


def structure_of(model: Artifact) -> str:
    """Return a name of a model's structure: its tensors' names, shapes and dtypes."""
    specs = [[spec.name, spec.dtype, list(spec.shape)] for spec in model.specs.values()]
    return hashlib.sha256(json.dumps(specs).encode()).hexdigest()


def leftover_of(data: bytes | memoryview | None, model: Artifact) -> Leftover:
    """Return what `to_bytes` gave; nothing is left if it does not verify, or is of a model of another structure.

    Args:
        data: The bytes; None if there are none.
        model: The model that it is to be added to: none of the parts is larger.
    """
    if data is None:
        return Leftover()
    try:
        return _read(memoryview(data), model)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, FlserveError):
        return Leftover()


def _read(data: memoryview, model: Artifact) -> Leftover:
    (length,) = _LENGTH.unpack_from(data, _SUM_BYTES)
    start = _SUM_BYTES + _LENGTH.size
    text = bytes(data[start : start + length])
    if hashlib.sha256(text).digest() != data[:_SUM_BYTES]:
        raise ValueError("head")
    head: Any = json.loads(text)
    if head["structure"] != structure_of(model):
        return Leftover()
    parts: list[Artifact | None] = []
    start += length
    for size in head["sizes"]:
        parts.append(decode(data[start : start + size], max_bytes=model.nbytes) if size else None)
        start += size
    pairs = zip(head["updates"], parts[1::2], parts[2::2], strict=True)
    pending = [Pending(update=update, carried=carried, rest=rest) for update, carried, rest in pairs]
    return Leftover(residual=parts[0], pending=tuple(pending))
