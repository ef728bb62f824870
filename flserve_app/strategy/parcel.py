"""One message on its way: what the strategy wrote, what is sent in its place, what the client made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        beside: Digests of the further records that all clients get alike, by key.
        given_beside: Those of them that go as payloads.
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
    beside: Mapping[str, str] = field(default_factory=dict)
    given_beside: Mapping[str, str] = field(default_factory=dict)

    def message(self) -> Message:
        """Return the strategy's message anew."""
        return Message(
            self.content,
            dst_node_id=self.node_id,
            message_type=self.message_type,
            ttl=self.ttl,
            group_id=self.group_id,
        )


Outgoing = tuple[Message, Parcel]  # what is sent, and what it carries


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


def model_key(message: Message, published: ArrayRecord, usual: str) -> str | None:
    """Return the key of the ArrayRecord that holds the model, or None.

    Train and evaluate messages deliver a model: the record that was published, and else the one that is most like it. A
    query's arrays are the app's own.

    Args:
        message: The strategy's.
        published: What the strategy was given to send.
        usual: Where it was found before.
    """
    if not message.has_content() or message.metadata.message_type.split(".")[0] not in ("train", "evaluate"):
        return None
    given, names = set(map(id, published.values())), set(published)

    def unlike(key: str, record: ArrayRecord) -> tuple[bool, ...]:
        return (
            record is not published,
            not any(id(array) in given for array in record.values()),
            key != usual,
            list(record) != list(published),
            names.isdisjoint(record),
        )

    records = message.content.array_records
    return min(records, key=lambda key: unlike(key, records[key]), default=None)


def brings_model(message: Message) -> bool:
    """Whether a message brings a handler a model."""
    return (
        message.has_content()
        and message.metadata.message_type.split(".")[0] in ("train", "evaluate")
        and bool(message.content.array_records)
    )


def trains(message: Message) -> bool:
    """Whether a message delivers a model for training."""
    return brings_model(message) and message.metadata.message_type.split(".")[0] == "train"
