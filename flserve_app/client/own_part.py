"""Where a client's private tensors come from when a model is delivered: its own, or the initial values.

What it kept counts only if it verifies and belongs to the layout and the history that the delivery names. The
initial values come with the delivery, or from the model that its recipe builds; without either the client cannot
follow, and is sent them in the same round. What training made of them is kept whatever becomes of the update: one
that is lost, late or left out has trained them all the same, and one that is asked for again trains them again.
What a delivery says of them is held to the node's policy before anything is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO, WARNING

from flwr.common.logger import log

from flserve_app.artifact import Artifact
from flserve_app.client.held import Held
from flserve_app.client.private import Private, kept_private, read_layout, read_private
from flserve_app.client.wire import Delivery
from flserve_app.errors import DeliveryError
from flserve_app.text import plain


def own_part(delivery: Delivery, held: Held, build: Callable[[], Artifact]) -> Private | None:
    """Return the client's private part of the model that is delivered; None if it has none.

    Args:
        delivery: What the server asked for.
        held: What the client holds.
        build: Builds the model of the delivery's recipe.

    Raises:
        DeliveryError: If it has none, and the delivery does not say how to begin.
        FlserveError: If the initial values cannot be had as the delivery says.
    """
    if not delivery.private:
        return None
    kept = kept_private(held.private(delivery.model, delivery.private, version_at(delivery)), delivery.private)
    if kept is not None:
        return kept
    begun = _begun(delivery, held, build)
    _tell(delivery, held, begun)
    held.put_private(delivery.model, begun.to_bytes(), delivery.private)
    return begun


def version_at(delivery: Delivery) -> str:
    """Return a name of the version that is delivered: two of the same content are two."""
    return f"{delivery.version}:{delivery.target}"


def _begun(delivery: Delivery, held: Held, build: Callable[[], Artifact]) -> Private:
    if delivery.start is None:
        raise DeliveryError(f"{held.identity} does not have the private tensors that it is said to keep")
    claimed, most = read_layout(delivery.start.data).nbytes, held.policy.max_model_bytes
    if claimed > most:
        raise DeliveryError(f"the private tensors have {claimed} bytes, max-model-bytes is {most}")
    layout, private = read_private(delivery.start.data)
    if private is None and delivery.recipe:
        private = Private(layout=layout, values=layout.parted(build())[1])
    if private is None or layout.key != delivery.private or private.values.digest != layout.start:
        raise DeliveryError("the private tensors' initial values are not those that the delivery names")
    return private


def _tell(delivery: Delivery, held: Held, begun: Private) -> None:
    lost = any(each.model == delivery.model and each.private == delivery.private for each in held.references())
    log(
        WARNING if lost else INFO,
        "flserve: %s %s %d private tensors of %s: they begin with the initial values",
        held.identity,
        "lost its" if lost else "has no",
        len(begun.layout.specs),
        plain(delivery.model),
    )
