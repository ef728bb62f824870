"""An in-memory fleet: Flower's Grid without Flower's engine.

It implements the production interface and runs a real ClientApp for each node, one after the other, in this
process. As in the engine, a message and a context are copied on both sides, a context is kept only if the
handler returned, and an exception becomes an error reply. `faults` are called with every message on its way
and may change, drop (None) or fail it, so that a test breaks exactly what it wants to.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from flserve_app.client.wire import PAYLOAD
from flserve_app.strategy.message_size import message_bytes

Fault = Callable[[Message], Message | None]


@dataclass(frozen=True)
class Seen:
    """A message as it went by, before any fault: where, what, its bytes and its payload (None if it had none)."""

    node_id: int
    way: str
    kind: str
    nbytes: int
    payload: bytes | None
    object_id: str | None


def seen(node_id: int, way: str, message: Message) -> Seen:
    carried = message.content.get(PAYLOAD) if message.has_content() else None
    arrays = list(carried.values()) if isinstance(carried, ArrayRecord) else []
    with no_object_id_recompute():  # nothing changes in between, and most of a test's time would go here
        nbytes = message_bytes(message)
        object_id = arrays[0].object_id if len(arrays) == 1 else None
    for array in arrays:
        vars(array).pop("_chunks", None)  # what naming it left behind cannot be pickled
    return Seen(
        node_id,
        way,
        message.metadata.message_type,
        nbytes,
        b"".join(array.data for array in arrays) if arrays else None,
        object_id,
    )


def set_identity() -> None:
    """Make this process a task of a run, without which Flower refuses to make messages."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


@dataclass
class FleetGrid(Grid):
    """A Grid over `size` nodes that all run `app`.

    Attributes:
        app: The ClientApp, or one a node.
        size: Number of nodes; node ids are as unordered as Flower's.
        node_config: Further entries of every node's config.
        partitioned: Whether nodes have a `partition-id`, as simulated ones do.
        down: Faults on the way to the clients.
        up: Faults on the way back.
        log: Every message that was sent and every reply that was given.
        first_id: What the node ids are derived from: another one puts the nodes in another order.
        timeouts: What each exchange was given to wait, in seconds.
        delay: How many further exchanges the reply to a message is held back; it can be pulled then.
    """

    app: ClientApp | Callable[[int], ClientApp]
    size: int
    node_config: dict[str, str | int | float | bool] = field(default_factory=dict)
    partitioned: bool = True
    down: list[Fault] = field(default_factory=list)
    up: list[Fault] = field(default_factory=list)
    log: list[Seen] = field(default_factory=list)
    timeouts: list[float | None] = field(default_factory=list)
    run_id: int = 7
    first_id: int = 104729
    reply_order: Callable[[list[Message]], list[Message]] = lambda replies: replies[::-1]
    delay: Callable[[Message], int] = lambda message: 0

    def __post_init__(self) -> None:
        set_identity()
        self._ids = itertools.count(1)
        self._pending: dict[str, tuple[int, Message]] = {}
        self._exchanges = 0
        self.contexts = {self.node_id(number): self._context(number) for number in range(self.size)}
        self.hidden: set[int] = set()

    def node_id(self, number: int) -> int:
        """Return the id of the node with a number: unordered, but the same in every test."""
        return (number * 7919 + self.first_id) % 1_000_003

    def number(self, node_id: int) -> int:
        return next(number for number in range(self.size) if self.node_id(number) == node_id)

    def forget(self, number: int) -> None:
        """Wipe what a node's context keeps from message to message."""
        self.contexts[self.node_id(number)] = self._context(number)

    def _context(self, number: int) -> Context:
        config = dict(self.node_config)
        if self.partitioned:
            config |= {"partition-id": number, "num-partitions": self.size}
        return Context(
            run_id=self.run_id, node_id=self.node_id(number), node_config=config, state=RecordDict(), run_config={}
        )

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(self.run_id)

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):  # type: ignore[no-untyped-def]
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return sorted(node_id for node_id in self.contexts if node_id not in self.hidden)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            name = f"m{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = name
            reply = self._serve(message)
            if reply is not None:
                self._pending[name] = (self._exchanges + self.delay(message), reply)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [name for name in message_ids if name in self._pending and self._pending[name][0] <= self._exchanges]
        return [self._pending.pop(name)[1] for name in ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.timeouts.append(timeout)
        self._exchanges += 1
        return self.reply_order(list(self.pull_messages(self.push_messages(messages))))

    def _serve(self, message: Message) -> Message | None:
        node_id = message.metadata.dst_node_id
        self.log.append(seen(node_id, "down", message))
        sent = through(self.down, copy.deepcopy(message))
        if sent is None:
            return None
        context = copy.deepcopy(self.contexts[node_id])
        app = self.app if isinstance(self.app, ClientApp) else self.app(self.number(node_id))
        try:
            reply = app(sent, context)
            self.contexts[node_id] = context
        except Exception as error:  # noqa: BLE001
            reply = Message(Error(code=2, reason=f"{type(error)}:<'{error}'>"), reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"r{next(self._ids)}"
        self.log.append(seen(node_id, "up", reply))
        return through(self.up, copy.deepcopy(reply))


def through(faults: list[Fault], message: Message) -> Message | None:
    current: Message | None = message
    for fault in faults:
        if current is not None:
            current = fault(current)
    return current
