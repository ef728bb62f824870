"""One message on its way: what the strategy wrote, what is sent in its place, what the client made of it."""

from __future__ import annotations

from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, RecordDict

from flserve_app.delivery import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A message of the strategy with its delivery.

    Attributes:
        content: The content the strategy wrote; it may be shared by many messages and is never changed.
        message_type: As the strategy wrote it.
        node_id: Where it goes.
        identity: What the node went by when it was sent; what comes back counts for that, whatever it says.
        group_id: As the strategy wrote it.
        ttl: Time to live in seconds, as the strategy wrote it.
        arrays: Key of the ArrayRecord that is delivered; empty if nothing is.
        target: Hex digest of the artifact that is delivered; empty if nothing is.
        full: Bytes of its ArrayRecord as Flower sends it.
        tied: Whether it has tensors that are the same.
        delivers: Whether that goes as a delivery; if not, it goes as it is.
        plan: How it was delivered; None before it is, and if it goes as it is.
        tries: How often it has been sent before.
        implied: Digests of what a client holds that replies without an answer; None if that says nothing.
        settled: Digests of the client's updates that it says were aggregated.
    """

    content: RecordDict
    message_type: str
    node_id: int
    group_id: str
    ttl: float
    identity: str = ""
    arrays: str = ""
    target: str = ""
    full: int = 0
    tied: bool = False
    delivers: bool = False
    plan: Plan | None = None
    tries: int = 0
    implied: tuple[str, ...] | None = None
    settled: tuple[str, ...] = ()


def open_message(message: Message) -> Parcel:
    """Return a strategy's message as a parcel without a delivery."""
    metadata = message.metadata
    return Parcel(
        content=message.content,
        message_type=metadata.message_type,
        node_id=metadata.dst_node_id,
        group_id=metadata.group_id,
        ttl=metadata.ttl,
    )


def model_key(message: Message) -> str | None:
    """Return the key of the ArrayRecord that holds the model, or None.

    Train and evaluate messages deliver a model: their first ArrayRecord. A query's arrays are the app's own.
    """
    if not message.has_content() or message.metadata.message_type.split(".")[0] not in ("train", "evaluate"):
        return None
    return next((key for key, record in message.content.items() if isinstance(record, ArrayRecord)), None)
