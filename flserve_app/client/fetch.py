"""A client's side of one delivery: fetch, verify, install; then send back what changed.

Rules:
- The order is decode, verify, install, use. What does not verify is never installed, and the version held
  before stays.
- Whatever keeps a client from holding the target becomes a `Refusal` with its reason; the server then sends
  a full payload in the same round.
- Payloads of a chain are applied in order, each to what the one before led to, and each is verified by digest.
- The node's policy bounds what is decoded and built. What is too large, or more than memory holds, is refused.
- Private tensors are the client's own: they are put in their places before the app sees the model, and taken out of
  its reply. A client that has none yet, or lost them, begins with the initial values, and says so in its log.
- An update is encoded relative to the artifact of this delivery, never to something newer or older.
- A reply that would take more bytes with an update than with the arrays as they are goes as without flserve, if the
  server allows it: it says by that that it followed, and what was left out of earlier updates waits.
- What was left out of earlier updates is settled when a reply is sealed: a handler that fails changes nothing of it,
  and the server says again what it said.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from flwr.app import Message, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.client.carried import inlined
from flserve_app.client.held import Held
from flserve_app.client.leftover import Leftover, leftover_of, structure_of
from flserve_app.client.object_size import is_larger
from flserve_app.client.own_part import own_part, version_at
from flserve_app.client.private import Private, withhold
from flserve_app.client.private_files import Trained
from flserve_app.client.recipe import Builder
from flserve_app.client.records import to_artifact, to_record
from flserve_app.client.reference import Reference
from flserve_app.client.target import Refusal as Refusal
from flserve_app.client.target import built_model, target_of
from flserve_app.client.verified import way_of
from flserve_app.client.wire import Answer, Delivery, payload_array, put_answer
from flserve_app.codec import encode
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.finer import Loss
from flserve_app.codec.lossy import send
from flserve_app.codec.rounding import Rounding
from flserve_app.errors import ArtifactError, CodecError, DigestMismatch, FlserveError
from flserve_app.fleet import PLAIN, TIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A version that is verified, installed and ready to use.

    Attributes:
        delivery: What the server asked for.
        artifact: The target, bit for bit.
        seconds: Time the fetch took.
        private: The client's own part of the model; None if it has none.
    """

    delivery: Delivery
    artifact: Artifact
    seconds: float
    private: Private | None = None


def fetch(delivery: Delivery, held: Held, builder: Builder | None = None) -> Fetched:
    """Bring a client to the delivery's target.

    Args:
        delivery: What the server asked for.
        held: What the client holds.
        builder: Builds what a recipe names; None if this client cannot.

    Raises:
        Refusal: If it cannot be brought there with what was sent.
    """
    started = time.perf_counter()
    way = way_of(delivery.recipe, [payload.data for payload in delivery.payloads])
    try:
        private = own_part(delivery, held, lambda: built_model(delivery.recipe, held, builder))
        artifact = target_of(delivery, held, builder, private, way)
        _check_whole(artifact, private, held)
    except FlserveError as error:
        raise Refusal(_reason(error)) from error
    except MemoryError as error:
        raise Refusal("there is not enough memory for it") from error
    if artifact.digest != delivery.target:
        raise Refusal(f"payload leads to {artifact.digest[:12]}, the delivery names {delivery.target[:12]}")
    reference = Reference(
        model=delivery.model,
        version=delivery.version,
        digest=delivery.target,
        private=delivery.private,
        federation=delivery.federation,
    )
    held.install(reference, artifact, way if delivery.payloads or delivery.recipe else "")
    return Fetched(delivery=delivery, artifact=artifact, seconds=time.perf_counter() - started, private=private)


def _reason(error: FlserveError) -> str:
    # What a payload led to may be made of a version that the server does not have: it learns no digest of that.
    return "a payload does not lead where it says" if isinstance(error, DigestMismatch) else str(error)


def _check_whole(artifact: Artifact, private: Private | None, held: Held) -> None:
    nbytes = artifact.nbytes + (0 if private is None else private.values.nbytes)
    if nbytes > held.policy.max_model_bytes:
        raise Refusal(f"the model has {nbytes} bytes, max-model-bytes is {held.policy.max_model_bytes}")


def with_arrays(content: RecordDict, fetched: Fetched) -> RecordDict:
    """Return the content the app's handler gets: the strategy's records in their order, the version among them."""
    model = fetched.artifact if fetched.private is None else fetched.private.whole(fetched.artifact)
    records = list(content.items())
    records.insert(fetched.delivery.place, (fetched.delivery.arrays, to_record(model)))
    return RecordDict(dict(records))


def seal(reply: Message, fetched: Fetched, held: Held, *, partitions: int, train_seconds: float) -> Message:
    """Replace the ArrayRecord of an app's reply by an update relative to the fetched version.

    Of several ArrayRecords that is the one whose key the model had; the others are the app's own. A reply without it,
    or with arrays no artifact can hold, keeps them as they are; private tensors stay here in any case.

    Raises:
        ArtifactError: If a private tensor came back malformed.
        DeliveryError: If one came back with another shape, or values that its dtype cannot hold.
    """
    started = time.perf_counter()
    content = RecordDict(dict(reply.content))
    if fetched.private is not None:
        private = withhold(content, fetched.private, fetched.delivery.arrays)
        if private is not fetched.private:
            trained = Trained(at=version_at(fetched.delivery), before=fetched.private.to_bytes())
            held.put_private(fetched.delivery.model, private.to_bytes(), fetched.delivery.private, trained)
    plain = RecordDict(dict(content))  # without the private tensors, whatever the server allows
    update = _update(content, fetched, held)
    place = _place(content, update)
    if update.payload is not None:
        del content[update.key]
    put_answer(
        content,
        Answer(
            status="ok",
            identity=held.identity,
            partitions=partitions,
            held=held.digests(fetched.delivery.model, fetched.delivery.federation),
            private=fetched.delivery.private,
            base=fetched.delivery.target,
            arrays=update.key,
            payload=None if update.payload is None else payload_array(update.payload),
            place=place,
            fetch_seconds=fetched.seconds,
            train_seconds=train_seconds,
            encode_seconds=time.perf_counter() - started,
            lost=update.loss.lost,
            halvings=update.loss.halvings,
        ),
    )
    if PLAIN in fetched.delivery.allows:
        content = _smallest(content, plain)
    _keep(update.before if content is plain else update.after, update.kept, fetched, held)
    reply.content = content
    return reply


def _smallest(content: RecordDict, plain: RecordDict) -> RecordDict:
    """Return the content of a reply, or with its update inline, or as the app wrote it, if the one before is larger."""
    if not is_larger(content, plain):
        return content
    lean = inlined(content)
    return plain if lean is None or is_larger(lean, plain) else lean


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """What becomes of a reply's arrays.

    Attributes:
        payload: The encoded update; None if there is none.
        key: Of the record that it takes the place of; empty if there is none.
        kept: What is kept of earlier ones; None for what is no use any more, or nothing.
        before: What is left of those, by what the server says.
        after: What is left with this one.
        loss: What rounding did to it.
    """

    payload: bytes | None
    key: str
    kept: Leftover | None
    before: Leftover
    after: Leftover
    loss: Loss


def _update(content: RecordDict, fetched: Fetched, held: Held) -> _Update:
    """Return the update of a reply, with what is left of it and of earlier ones."""
    delivery, model = fetched.delivery, fetched.artifact
    kept = None
    if delivery.feedback:
        kept = held.beside(delivery.model, model.nbytes, delivery.federation)
    known = leftover_of(None if delivery.afresh else kept, model)
    before = known.settled(delivery.settled, owed=delivery.owed) if delivery.feedback else known
    payload, key, after, loss = _updated(content, fetched, before)
    stale = delivery.afresh and kept is not None
    return _Update(payload=payload, key=key, kept=None if stale else known, before=before, after=after, loss=loss)


def _place(content: RecordDict, update: _Update) -> int:
    """Return the place of what an update replaces: the order of records may tell something; 0 without one."""
    return 0 if update.payload is None else list(content).index(update.key)


def _keep(left: Leftover, kept: Leftover | None, fetched: Fetched, held: Held) -> None:
    """Keep what is left of updates, unless that is what is kept already."""
    delivery, model = fetched.delivery, fetched.artifact
    if delivery.feedback and left is not kept:
        held.put_beside(delivery.model, model.nbytes, left.to_bytes(structure_of(model)), delivery.federation)


def _updated(content: RecordDict, fetched: Fetched, before: Leftover) -> tuple[bytes | None, str, Leftover, Loss]:
    """Return the payload of an update and its key, None and empty without one, what is left after it and its loss."""
    records = content.array_records
    key = next(iter(records)) if len(records) == 1 else fetched.delivery.arrays
    if key not in records:
        return None, "", before, Loss()
    try:
        trained = to_artifact(records[key], like=fetched.artifact)
        update, after, loss = _encoded(trained, fetched, before)
    except (ArtifactError, CodecError):
        return None, "", before, Loss()
    return update, key, after, loss


def _encoded(trained: Artifact, fetched: Fetched, before: Leftover) -> tuple[bytes, Leftover, Loss]:
    """Return the payload of an update, rounded if the server asks for it, what is left after it and its loss."""
    delivery = fetched.delivery
    if not delivery.rounding:
        return encode(trained, fetched.artifact, delivery.uplink, ties=TIED in delivery.allows), before, Loss()
    feedback = Feedback.from_json(delivery.feedback) if delivery.feedback else Feedback(decay=0.0)
    rounding = Rounding.from_json(delivery.rounding)
    sent = send(trained, fetched.artifact, rounding, feedback, before.residual, ties=TIED in delivery.allows)
    return sent.payload, before.sent(sent.artifact.digest, sent.residual), sent.loss
