"""The payloads of one model's steps: as the store has them, or made from the two artifacts, each once.

Rules:
- What the store made for its history is delivered as it is.
- Clients of earlier releases know no ties: they get the same step without (`untied`).
- A step under a codec that rounds is composed, as encoding anew would lead to a third artifact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from flserve_app.artifact import Artifact
from flserve_app.codec import encode, encode_composed, inspect
from flserve_app.codec.codecs import codec_named
from flserve_app.delivery import Payloads, Step
from flserve_app.errors import CorruptBlob
from flserve_app.fleet import TIED
from flserve_app.registry import Registry


@final
class StepPayloads:
    """Makes payloads, and remembers them.

    Args:
        registry: Where those of the history are.
        base: Returns an artifact by its digest, which raises FlserveError if it cannot be read.

    Attributes:
        tied: The payloads as they are planned with.
    """

    def __init__(self, registry: Registry, base: Callable[[str], Artifact]) -> None:
        self._registry = registry
        self._base = base
        self.tied = Payloads(self._make, self._read)
        self._untied = Payloads(lambda step: self._make(step, ties=False))

    def get(self, step: Step, takes: frozenset[str]) -> bytes:
        """Return a payload in a form that a client can read, by what it takes. Raises FlserveError."""
        payload = self.tied.get(step)
        tied = TIED not in takes and any(tensor.op == TIED for tensor in inspect(payload).tensors)
        return self._untied.get(step) if tied else payload

    def _read(self, step: Step) -> bytes | None:
        try:
            return self._registry.payload(step.target, step.base, step.codec)
        except CorruptBlob:
            return None

    def _make(self, step: Step, *, ties: bool = True) -> bytes:
        target = self._base(step.target)
        if step.base is None:
            return encode(target, None, step.codec, ties=ties)
        base = self._base(step.base)
        if codec_named(step.codec).exact:
            return encode(target, base, step.codec, ties=ties)
        return encode_composed(target, base, step.codec, ties=ties)
