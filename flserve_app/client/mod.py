"""`versioned_mod`: version-aware delivery for any ClientApp, its handlers unchanged.

`ClientApp(mods=[versioned_mod])` is all a client needs. Put it first: mods after it, and the handlers, see
plain messages with full ArrayRecords and a state of their own records (`aside`), as without flserve. A message
that carries no delivery passes as it is. All messages and replies are held to the node's site policy (`policy`):
what is over its bounds is refused, and where the policy cannot be read, everything is. `building(builder)` is the
same mod for an app that can build models from recipes: its first contact costs no download.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from logging import WARNING

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.logger import log

from flserve_app.client.aside import put_aside
from flserve_app.client.beside import fetch_beside
from flserve_app.client.fetch import Fetched, fetch, seal, with_arrays
from flserve_app.client.held import Held
from flserve_app.client.identity import identity
from flserve_app.client.policy import FRAMES, SitePolicy, site_policy
from flserve_app.client.private import kept_key
from flserve_app.client.recipe import Builder
from flserve_app.client.traffic import array_bytes, content_bytes
from flserve_app.client.wire import MAX_REASON, RECORD, Answer, Delivery, put_answer, take_delivery
from flserve_app.codec import CODECS
from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.fleet import BESIDE, CHAIN, EMPTY, INLINE, PRIVATE, RECIPE, TIED
from flserve_app.text import is_plain, plain

NO_MEMORY = "there is not enough memory for it"
_admitted: ContextVar[bool] = ContextVar("flserve_admitted", default=False)

Handler = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Handler], Message]


def versioned_mod(message: Message, context: Context, call_next: Handler) -> Message:
    """Fetch what the server delivers, call the app, and send its update back relative to what was fetched.

    Args:
        message: The server's message.
        context: The client's context; its `state` keeps the held version or the reference to it.
        call_next: The rest of the app.

    Returns:
        The app's reply with its arrays encoded, or a refusal that makes the server send a full artifact.
    """
    return follow(message, context, call_next, None)


def building(builder: Builder) -> Mod:
    """Return `versioned_mod` for a client that builds what a recipe names."""

    def mod(message: Message, context: Context, call_next: Handler) -> Message:
        return follow(message, context, call_next, builder)

    return mod


def follow(message: Message, context: Context, call_next: Handler, builder: Builder | None) -> Message:
    """Do what `versioned_mod` does, with a builder of models if there is one."""
    try:
        policy = site_policy(context.node_config)
    except ConfigError as error:
        log(WARNING, "flserve: the site policy cannot be read, nothing is done: %s", plain(error))
        return _turned_away(message, context, f"the site policy cannot be read: {error}")
    if _admitted.get():  # the handler of a message that was looked at: a VersionedClient behind the mod
        return _follow(message, context, call_next, builder, policy)
    token = _admitted.set(True)
    try:
        return _bounded(message, context, call_next, builder, policy)
    finally:
        _admitted.reset(token)


def _bounded(
    message: Message, context: Context, call_next: Handler, builder: Builder | None, policy: SitePolicy
) -> Message:
    """Follow a message, unless it or its reply is over a bound."""
    over, came = _over(message, policy), content_bytes(message)
    if over:
        log(WARNING, "flserve: a message is refused: %s", over)
        return _turned_away(message, context, over)
    delivers = _delivers(message)
    reply = _follow(message, context, call_next, builder, policy)
    over = _over(reply, policy, came) if isinstance(reply, Message) else ""
    if over:
        log(WARNING, "flserve: a reply is held back: %s", over)
        return _turned_away(message, context, over, delivers=delivers)
    return reply


def _follow(
    message: Message, context: Context, call_next: Handler, builder: Builder | None, policy: SitePolicy
) -> Message:
    if not _delivers(message):
        return _called(message, context, call_next)
    held = Held(context, policy)
    content = RecordDict(dict(message.content))
    delivery = None
    try:
        # One whose names are none is refused, and told nothing: not even of what would go by such a name.
        delivery = _checked(take_delivery(content))
        if delivery.action == "hello":
            return _greet(message, context, held, delivery, builder)
        content = fetch_beside(content, delivery, held)
        fetched = fetch(delivery, held, builder)
    except DeliveryError as refusal:
        return _refuse(message, context, held, delivery, str(refusal))
    except MemoryError:
        return _refuse(message, context, held, delivery, NO_MEMORY)
    return _handle(message, context, call_next, content, fetched, held)


def _delivers(message: Message) -> bool:
    return message.has_content() and RECORD in message.content


def _checked(delivery: Delivery | None) -> Delivery:
    """Return a delivery whose names may stand in logs and records."""
    if delivery is None:
        raise DeliveryError(f"record {RECORD!r} is not there")
    for what, name in (("model", delivery.model), ("arrays", delivery.arrays)):
        if not is_plain(name):
            raise DeliveryError(f"delivery: {what} {name[:80]!r} is no plain name")
    return delivery


def _over(message: Message, policy: SitePolicy, before: int = 0) -> str:
    """Return which bound a message's content is over, with the bytes that were counted before; empty for none."""
    arrays, nbytes = array_bytes(message), before + content_bytes(message)
    if arrays > policy.max_model_bytes + FRAMES and not _delivers(message):
        return f"arrays of {arrays} bytes, max-model-bytes is {policy.max_model_bytes}"
    return f"{nbytes} bytes a round, max-round-bytes is {policy.round_bytes}" if nbytes > policy.round_bytes else ""


def _handle(
    message: Message, context: Context, call_next: Handler, content: RecordDict, fetched: Fetched, held: Held
) -> Message:
    message.content = with_arrays(content, fetched)
    started = time.perf_counter()
    reply = _called(message, context, call_next)
    seconds = time.perf_counter() - started
    if reply.has_error():
        return reply
    try:
        return seal(reply, fetched, held, partitions=_partitions(context), train_seconds=seconds)
    except MemoryError:
        return _refuse(message, context, held, fetched.delivery, NO_MEMORY)


def _called(message: Message, context: Context, call_next: Handler) -> Message:
    """Return the app's reply. Raises DeliveryError if it is none."""
    with put_aside(context):
        reply: object = call_next(message, context)
    if not isinstance(reply, Message):
        raise DeliveryError(f"the app's handler returned a {type(reply).__name__}, expected a Message")
    return reply


def _greet(message: Message, context: Context, held: Held, delivery: Delivery, builder: Builder | None) -> Message:
    digests = held.digests(delivery.model, delivery.federation)
    base = delivery.base
    # Told to who names it, and a digest cannot be guessed: the client holds it itself, if under another name.
    digests = (base, *digests) if base and base not in digests and base in held.digests() else digests
    # Likewise: nobody is told which history the private tensors are of.
    keeps = bool(delivery.private) and kept_key(held.private(delivery.model, delivery.private)) == delivery.private
    builds = builder is not None and held.policy.build_recipes
    empty = () if held.carries(delivery.model, delivery.federation) else (EMPTY,)
    return _reply(
        message,
        Answer(
            status="hello",
            identity=held.identity,
            partitions=_partitions(context),
            held=digests,
            private=delivery.private if keeps else "",
            capabilities=(CHAIN, PRIVATE, TIED, INLINE, BESIDE, *((RECIPE,) if builds else ()), *empty, *CODECS),
        ),
    )


def _refuse(message: Message, context: Context, held: Held, delivery: Delivery | None, reason: str) -> Message:
    return _reply(
        message,
        Answer(
            status="nack",
            identity=held.identity,
            partitions=_partitions(context),
            held=() if delivery is None else held.digests(delivery.model, delivery.federation),
            reason=plain(reason, MAX_REASON),
        ),
    )


def _turned_away(message: Message, context: Context, reason: str, *, delivers: bool | None = None) -> Message:
    """Return the answer of a node that does nothing: to a delivery a nack, to any other message an error."""
    if not (_delivers(message) if delivers is None else delivers):
        return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=plain(reason)), reply_to=message)
    named = identity(context.node_config, None, context.node_id)
    return _reply(message, Answer(status="nack", identity=named, reason=plain(reason, MAX_REASON)))


def _reply(message: Message, answer: Answer) -> Message:
    content = RecordDict()
    put_answer(content, answer)
    return Message(content, reply_to=message)


def _partitions(context: Context) -> int:
    number = context.node_config.get("num-partitions", 0)
    return number if isinstance(number, int) else 0
