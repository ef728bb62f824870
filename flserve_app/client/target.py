"""From what a client has, and what it was sent, to the target of a delivery.

Rules:
- A delivery without payloads and recipe stands for what this model's reference names, of this federation: naming a
  digest gets nobody another one's version.
- A version that the client holds of another model may be the base of a payload that leads elsewhere. Who can say
  where it leads has both; and what it led to instead is not told.
- What another client of this machine came to by the same payloads, in this process, need not be decoded again.
- The node's policy bounds what is decoded and built, before it is allocated.
"""

from __future__ import annotations

from flserve_app.artifact import Artifact
from flserve_app.client.held import Held
from flserve_app.client.private import Private
from flserve_app.client.recipe import Builder, built
from flserve_app.client.wire import Delivery
from flserve_app.codec import decode, inspect
from flserve_app.errors import DeliveryError, FlserveError


class Refusal(DeliveryError):
    """A delivery this client cannot follow; the message is the reason it answers with."""


def target_of(delivery: Delivery, held: Held, builder: Builder | None, private: Private | None, way: str) -> Artifact:
    """Return what a delivery leads to.

    Args:
        delivery: What the server asked for.
        held: What the client holds.
        builder: Builds what a recipe names; None if this client cannot.
        private: The client's own part of the model; None if it has none.
        way: Name of what the delivery leads by.

    Raises:
        Refusal: If the client does not have, or does not do, what that takes.
        FlserveError: If it cannot be decoded or built.
    """
    if not delivery.payloads and not delivery.recipe:
        return _held_of_model(delivery, held)
    at_hand = held.at_hand(delivery.target, way)
    if at_hand is not None and _has_base(delivery, held):
        return at_hand
    artifact = built_model(delivery.recipe, held, builder) if delivery.recipe else None
    if artifact is not None and private is not None:
        artifact, _ = private.layout.parted(artifact)
    for payload in delivery.payloads:
        artifact = _applied(payload.data, artifact, delivery, held)
    if artifact is None:
        raise Refusal("the delivery has neither payloads nor a recipe")
    return artifact


def _has_base(delivery: Delivery, held: Held) -> bool:
    """Whether the client has what the first payload needs."""
    base = None if delivery.recipe or not delivery.payloads else inspect(delivery.payloads[0].data).base
    return base is None or base in held.digests()


def _held_of_model(delivery: Delivery, held: Held) -> Artifact:
    of_model = delivery.target in held.digests(delivery.model, delivery.federation)
    artifact = held.load(delivery.target) if of_model else None
    if artifact is None:
        raise Refusal(f"{held.identity} does not hold {delivery.target[:12]}, the version it is said to hold")
    return artifact


def built_model(recipe: str, held: Held, builder: Builder | None) -> Artifact:
    """Return what a recipe builds.

    Raises:
        DeliveryError: If this client builds none, or not this one.
    """
    if builder is None:
        raise Refusal(f"{held.identity} cannot build models from recipes")
    if not held.policy.build_recipes:
        raise Refusal(f"{held.identity} builds no models from recipes, by its policy")
    return built(recipe, builder, min(held.policy.made_bytes, held.policy.max_model_bytes))


def _applied(payload: bytes, before: Artifact | None, delivery: Delivery, held: Held) -> Artifact:
    base, most = inspect(payload).base, held.policy.max_model_bytes
    if base is None:
        return decode(payload, max_bytes=most)
    if before is not None:
        return decode(payload, before, max_bytes=most)
    return _from_held(payload, base, delivery, held)


def _from_held(payload: bytes, base: str, delivery: Delivery, held: Held) -> Artifact:
    artifact = held.load(base)
    if artifact is None:
        raise Refusal(f"{held.identity} does not hold {base[:12]}, the payload's base")
    if base in held.digests(delivery.model, delivery.federation):
        return decode(payload, artifact, max_bytes=held.policy.max_model_bytes)
    try:
        made = decode(payload, artifact, max_bytes=held.policy.max_model_bytes)
    except FlserveError as error:
        raise Refusal(f"a payload does not fit {base[:12]}, which is held of another model") from error
    if made.digest == base:
        raise Refusal(f"{base[:12]} is held of another model: a payload has to lead elsewhere")
    return made
