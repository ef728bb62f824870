"""`VersionedClient`: a NumPyClient that knows which version it holds.

A subclass implements `fit` and `evaluate` as for any NumPyClient, and `infer` for local inference. The base
class carries the fetch (verify, install, fall back), hands the held version's arrays in, sends updates back
relative to it, and predicts with it.

Rules:
- The arrays come in the order of the artifact's tensors and go back in the same order, one for one.
- A client with a builder builds what a recipe names, so that its first version need not be sent.
- `predict` uses the version this client holds and verified, with its own private tensors, and needs no server.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast, final

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient

from flserve_app.client.held import Held
from flserve_app.client.mod import follow
from flserve_app.client.policy import site_policy
from flserve_app.client.private import kept_private
from flserve_app.client.recipe import Builder
from flserve_app.client.records import record_of, to_record
from flserve_app.client.reference import Reference
from flserve_app.client.tensor_array import TensorArray
from flserve_app.errors import DeliveryError, NotFound

NDArray = np.ndarray[Any, np.dtype[Any]]
Scalars = dict[str, bool | bytes | float | int | str]


class VersionedClient(NumPyClient, ABC):
    """A NumPyClient with versions.

    Args:
        context: The client's context, as Flower passes it to a handler.
        builder: Builds what a recipe names; None for a client that cannot.

    Attributes:
        policy: What the node's owner allows.

    Raises:
        ConfigError: If the owner's policy cannot be read.
    """

    def __init__(self, context: Context, builder: Builder | None = None) -> None:
        super().__init__()
        self._builder = builder
        self._context = context
        self.policy = site_policy(context.node_config)
        self._held = Held(context, self.policy)

    @abstractmethod
    def infer(self, parameters: list[NDArray], inputs: NDArray) -> NDArray:
        """Return the model's outputs for `inputs` (n, ...) under `parameters`; shape (n, ...)."""

    @final
    @property
    def identity(self) -> str:
        """The client's stable name."""
        return self._held.identity

    @final
    def held(self, model: str = "") -> Reference:
        """Return the version this client holds.

        Args:
            model: Name of the model; may be left out where only one is held.

        Raises:
            NotFound: If nothing is held, or several models are and none is named.
        """
        references = {found.model: found for found in self._held.references()}
        if model in references:
            return references[model]
        if not model and len(references) == 1:
            return next(iter(references.values()))
        if not references:
            raise NotFound(f"{self.identity} holds no version yet")
        asked = f"holds no version of {model!r}" if model else "holds several models: name one"
        raise NotFound(f"{self.identity} {asked}; held models: {', '.join(sorted(references))}")

    @final
    def delivered(self) -> Reference:
        """Return the version that was delivered to this client last in this run: what its server may ask about.

        Raises:
            NotFound: If none was; what the client holds of other runs is not this server's.
        """
        found = self._held.delivered()
        if not found:
            raise NotFound(f"{self.identity} holds no version yet that was delivered in this run")
        return found[-1]

    @final
    def predict(self, inputs: NDArray, model: str = "") -> NDArray:
        """Return outputs for `inputs` (n, ...) from the held version, on this device alone.

        Raises:
            NotFound: If no version is held, or it is damaged, or its private tensors are.
        """
        reference = self.held(model)
        artifact = self._held.load(reference.digest)
        if artifact is None:
            raise NotFound(f"{self.identity} lost version {reference.version} of {reference.model}")
        if reference.private:
            private = kept_private(self._held.private(reference.model, reference.private), reference.private)
            if private is None:
                raise NotFound(f"{self.identity} lost its private tensors of {reference.model}")
            artifact = private.whole(artifact)
        return self.infer(_ndarrays(to_record(artifact)), inputs)

    @final
    def handle_train(self, message: Message) -> Message:
        """Fetch the delivered version, `fit` on it, and reply with the update."""
        return follow(message, self._context, self._fit, self._builder)

    @final
    def handle_evaluate(self, message: Message) -> Message:
        """Fetch the delivered version and reply with what `evaluate` measures on it."""
        return follow(message, self._context, self._evaluate, self._builder)

    def _fit(self, message: Message, _: Context) -> Message:
        key, record, config = _parts(message)
        trained, examples, metrics = self.fit(_ndarrays(record), cast(Any, config))
        if len(trained) != len(record):
            raise DeliveryError(f"fit returned {len(trained)} arrays, the model has {len(record)}")
        arrays = record_of({name: _array(new) for name, new in zip(record, trained, strict=True)})
        return _reply(message, {key: arrays}, examples, metrics)

    def _evaluate(self, message: Message, _: Context) -> Message:
        record, config = _parts(message)[1:]
        loss, examples, metrics = self.evaluate(_ndarrays(record), cast(Any, config))
        return _reply(message, {}, examples, {"loss": float(loss), **metrics})


def _parts(message: Message) -> tuple[str, ArrayRecord, Scalars]:
    arrays = list(message.content.array_records.items())
    if len(arrays) != 1:
        raise DeliveryError(f"message has {len(arrays)} ArrayRecords, expected 1")
    config: Scalars = {}
    for record in message.content.config_records.values():
        config.update({key: value for key, value in record.items() if not isinstance(value, list)})
    return arrays[0][0], arrays[0][1], config


def _ndarrays(record: ArrayRecord) -> list[NDArray]:
    return [array.numpy() for array in record.values()]


def _array(values: NDArray) -> Array:
    values = np.asarray(values)
    if values.dtype.kind not in "biufc":
        return Array(values)  # and Flower's to refuse
    return TensorArray(np.ascontiguousarray(values).reshape(values.shape))


def _reply(message: Message, records: dict[str, ArrayRecord], examples: int, metrics: object) -> Message:
    numbers = {key: value for key, value in dict(cast(Any, metrics)).items() if isinstance(value, int | float)}
    measured = MetricRecord({"num-examples": int(examples), **{key: float(value) for key, value in numbers.items()}})
    return Message(RecordDict({**records, "metrics": measured}), reply_to=message)
