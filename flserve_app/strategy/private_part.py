"""The part of a model that stays with its clients, as the server knows it: which tensors, and how they began.

Rules:
- The initial model is parted before version 0 is published: no version, payload, aggregate or state has a tensor of
  the clients in it. What the server keeps of the private part is its initial values, which are its own.
- Layout and initial values are kept with every version's state: a run that is resumed goes on with the same, and
  clients go on with what they have. A name that is published anew is another history, and they begin anew.
- A client is sent both once, and the key alone from then on. Where it builds version 0 from a recipe, the initial
  values are the recipe's, too.
- What is evaluated on the server has the initial values in its private tensors, as no others are known there.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import final

from flwr.app import Array, ArrayRecord, MetricRecord

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import Roles
from flserve_app.client.layout import layout_of
from flserve_app.client.private import Private, layout_bytes, read_private
from flserve_app.client.records import record_of, to_artifact, to_record
from flserve_app.client.wire import Delivery, payload_array
from flserve_app.errors import ConfigError, FlserveError, StoreError
from flserve_app.fleet import PRIVATE, Client
from flserve_app.strategy.annex import State, attached, detached
from flserve_app.strategy.in_place import take_over

_MARK = "private"
EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@final
class PrivatePart:
    """What stays with the clients.

    Args:
        roles: What tensors are for, as the user says.
    """

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self._initial: Private | None = None
        self._key = ""
        self._bytes = b""
        self._start: Array | None = None
        self._layout: Array | None = None

    @property
    def key(self) -> str:
        """Key of the layout; empty if nothing is private."""
        return self._key

    def begin(self, initial: ArrayRecord | Artifact) -> Artifact:
        """Begin a history with an initial model; return its shared part.

        Raises:
            ArtifactError: If an array of it is none that an artifact can hold.
            ConfigError: If the roles do not fit the model.
        """
        model = initial if isinstance(initial, Artifact) else to_artifact(initial)
        self.roles.check(model)
        names = self.roles.private(model)
        if not names:
            return model
        layout = layout_of(model, names, secrets.token_hex(16))
        shared, values = layout.parted(model)
        self._take(Private(layout=layout, values=values))
        return shared

    def shared(self, model: Artifact) -> Artifact:
        """Return what of a model goes on with the history that was begun: all of it if it has no private tensors."""
        if self._initial is None or not set(self._initial.layout.names) <= set(model):
            return model
        return self._initial.layout.parted(model)[0]

    def recall(self, found: State | None, version: str, shared: Artifact) -> State | None:
        """Go on with the history of a stored version; return what else its state holds.

        Args:
            found: Kind and bytes as they were stored.
            version: Whose they are, for messages.
            shared: The version's artifact.

        Raises:
            ConfigError: If the roles do not fit the model, or make other tensors private than they were.
            StoreError: If it is malformed.
        """
        state, data = detached(found, _MARK, version)
        model, were = shared, frozenset[str]()
        if data is not None:
            try:
                private = read_private(data)[1]
            except (FlserveError, struct.error) as error:
                raise StoreError(f"the private part of {version} is malformed: {error}") from error
            if private is None:
                raise StoreError(f"the private part of {version} is malformed: it has no values")
            self._take(private)
            model, were = private.whole(shared), frozenset(private.layout.names)
        self.roles.check(model)
        if other := sorted(were.symmetric_difference(self.roles.private(model))):
            now = "was private, and now is not" if other[0] in were else "was published, and cannot become private"
            raise ConfigError(f"roles: tensor {other[0]!r} of {version} {now}: resume with the roles it was begun with")
        return state

    def whole(self, shared: Artifact) -> Artifact:
        """Return a whole model with the initial values in its private tensors."""
        return shared if self._initial is None else self._initial.whole(shared)

    def attached(self, state: State | None) -> State | None:
        """Return a version's state with the private part's beginning; as it is if nothing is private."""
        return attached(state, _MARK, self._bytes) if self._initial is not None else state

    def refuses(self, client: Client, *, met: bool) -> str:
        """Return why a client cannot be sent the model, as it does not keep what is private; empty if it can be."""
        if self._initial is None or (client.versioned and PRIVATE in client.takes):
            return ""
        return "it cannot keep private tensors to itself" if met else "it has not answered its greeting yet"

    def told(self, delivery: Delivery, client: Client, *, again: bool) -> tuple[Delivery, int]:
        """Return a delivery that says what is private, and the bytes of what it says beside the key.

        Args:
            delivery: What is about to be sent.
            client: To whom.
            again: Whether it could not follow before; then it is told all.
        """
        if self._initial is None:
            return delivery, 0
        if client.keeps == self._key and not again:
            return replace(delivery, private=self._key), 0
        start = self._layout if delivery.recipe else self._start
        return replace(delivery, private=self._key, start=start), 0 if start is None else len(start.data)

    def completing(self, evaluate_fn: EvaluateFn | None) -> EvaluateFn | None:
        """Return an evaluate function that is given whole models, with the initial values in their private tensors."""
        if evaluate_fn is None or self._initial is None:
            return evaluate_fn
        layout, private = self._initial.layout, to_record(self._initial.values)

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            names = list(arrays)
            for place, name in zip(layout.places, layout.names, strict=True):
                names.insert(place, name)
            whole = {name: private[name] if name in private else arrays[name] for name in names}
            model = record_of(whole)
            metrics = evaluate_fn(server_round, model)
            take_over(record_of({name: model[name] for name in model if name not in private}), arrays)
            return metrics

        return evaluate

    def _take(self, initial: Private) -> None:
        self._initial = initial
        self._key = initial.layout.key
        self._bytes = b"".join(initial.to_bytes())
        # One Array each for all clients: Flower uploads it once.
        self._start = payload_array(self._bytes)
        self._layout = payload_array(b"".join(layout_bytes(initial.layout)))
