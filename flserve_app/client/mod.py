"""`versioned_mod`: version-aware delivery for any ClientApp, its handlers unchanged.

`ClientApp(mods=[versioned_mod])` is all a client needs. Put it first: mods after it, and the handlers, see
plain messages with full ArrayRecords, as without flserve. A message that carries no delivery passes as it is.
`building(builder)` is the same mod for an app that can build models from recipes: its first contact costs no
download.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict

from flserve_app.client.fetch import Fetched, fetch, seal, with_arrays
from flserve_app.client.held import Held
from flserve_app.client.private import kept_key
from flserve_app.client.recipe import Builder
from flserve_app.client.wire import RECORD, Answer, Delivery, put_answer, take_delivery
from flserve_app.codec import CODECS
from flserve_app.errors import DeliveryError
from flserve_app.fleet import CHAIN, PRIVATE, RECIPE

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
    if not message.has_content() or RECORD not in message.content:
        return call_next(message, context)
    held = Held(context)
    content = RecordDict(dict(message.content))
    model = ""
    try:
        delivery = take_delivery(content)
        model = "" if delivery is None else delivery.model
        if delivery is None or delivery.action == "hello":
            return _greet(message, context, held, delivery, builder)
        fetched = fetch(delivery, held, builder)
    except DeliveryError as refusal:
        return _refuse(message, context, held, model, str(refusal))
    return _handle(message, context, call_next, content, fetched, held)


def _handle(
    message: Message, context: Context, call_next: Handler, content: RecordDict, fetched: Fetched, held: Held
) -> Message:
    message.content = with_arrays(content, fetched)
    started = time.perf_counter()
    reply = call_next(message, context)
    seconds = time.perf_counter() - started
    if not isinstance(reply, Message):
        raise DeliveryError(f"the app's handler returned a {type(reply).__name__}, expected a Message")
    if reply.has_error():
        return reply
    return seal(reply, fetched, held, partitions=_partitions(context), train_seconds=seconds)


def _greet(
    message: Message, context: Context, held: Held, delivery: Delivery | None, builder: Builder | None
) -> Message:
    model, base = ("", "") if delivery is None else (delivery.model, delivery.base)
    digests = held.digests(model)
    return _reply(
        message,
        Answer(
            status="hello",
            identity=held.identity,
            partitions=_partitions(context),
            held=(base, *digests) if base and base not in digests and held.finds(base) else digests,
            private=kept_key(held.private(model)),
            capabilities=(CHAIN, PRIVATE, *(() if builder is None else (RECIPE,)), *CODECS),
        ),
    )


def _refuse(message: Message, context: Context, held: Held, model: str, reason: str) -> Message:
    return _reply(
        message,
        Answer(
            status="nack",
            identity=held.identity,
            partitions=_partitions(context),
            held=held.digests(model),
            reason=" ".join(reason.split()),
        ),
    )


def _reply(message: Message, answer: Answer) -> Message:
    content = RecordDict()
    put_answer(content, answer)
    return Message(content, reply_to=message)


def _partitions(context: Context) -> int:
    number = context.node_config.get("num-partitions", 0)
    return number if isinstance(number, int) else 0
