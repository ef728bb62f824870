"""An engine for small jobs: Flower's Grid over clients that run in this process.

Flower's simulation engine takes seconds to start its workers, which is most of a small job. This one has the
same semantics, and a run ends in the same digest:
- Nodes have random ids, a `partition-id` and `num-partitions`.
- Messages and contexts are copied both ways; a context is kept only if the handler returned.
- An exception of the app is an error reply with code 2; a handler that returns no Message gives no reply.
- Replies may be late: a timeout returns what is there, and the rest can be pulled by message id.

One thread runs the clients, one message after the other, because PyTorch's random state is the process's own.
"""

from __future__ import annotations

import copy
import gc
import secrets
import threading
import time
from collections.abc import Iterable
from queue import SimpleQueue
from typing import final
from uuid import uuid4

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

POLL_SECONDS = 0.001
MOST_POLL_SECONDS = 0.05
LARGE_BYTES = 64 << 20
STOP_SECONDS = 1.0


@final
class InProcessGrid(Grid):
    """A Grid whose nodes run a ClientApp in this process; close it to end its thread.

    Args:
        app: What every node runs.
        num_clients: Number of nodes.
    """

    def __init__(self, app: ClientApp, num_clients: int) -> None:
        self._app = app
        self._run_id = secrets.randbits(63)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self._run_id, 1, secrets.randbits(63)
        self._contexts = self._make_contexts(num_clients)
        self._inbox: SimpleQueue[Message | None] = SimpleQueue()
        self._replies: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._worker = threading.Thread(target=self._work, name="flserve-clients", daemon=True)
        self._worker.start()

    def __enter__(self) -> InProcessGrid:
        """Return the grid; leaving the block closes it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the grid; whoever interrupts the process does not wait for a client to finish."""
        self.close(STOP_SECONDS if kind is not None and issubclass(kind, KeyboardInterrupt) else None)

    def close(self, timeout: float | None = None) -> None:
        """End the thread once the message at hand is done; messages that wait are dropped.

        Args:
            timeout: The longest to wait for that, in seconds; None for as long as it takes.
        """
        while not self._inbox.empty():
            self._inbox.get()
        self._inbox.put(None)
        self._worker.join(timeout)

    def set_run(self, run: Run) -> None:
        """Take over another run's id."""
        self._run_id = run.run_id

    @property
    def run(self) -> Run:
        """The run this engine made up."""
        return Run.create_empty(self._run_id)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message, as Flower's Grid does."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages for their nodes; returns their ids."""
        names = []
        for message in messages:
            name = str(uuid4())
            message.metadata.__dict__["_message_id"] = name
            self._inbox.put(copy.deepcopy(message))
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there for these message ids; each is handed out once."""
        with self._lock:
            return [self._replies.pop(name) for name in list(message_ids) if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Queue messages and wait for their replies, at most `timeout` seconds."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = POLL_SECONDS
        replies: list[Message] = []
        while waiting:
            found = list(self.pull_messages(waiting))
            replies.extend(found)
            waiting -= {reply.metadata.reply_to_message_id for reply in found}
            if not waiting or (deadline is not None and time.monotonic() >= deadline):
                break
            pause = POLL_SECONDS if found else min(2 * pause, MOST_POLL_SECONDS)
            time.sleep(pause)
        return replies

    def _make_contexts(self, num_clients: int) -> dict[int, Context]:
        contexts = {}
        for number in range(num_clients):
            node_id = secrets.randbits(63)
            contexts[node_id] = Context(
                run_id=self._run_id,
                node_id=node_id,
                node_config={"partition-id": number, "num-partitions": num_clients},
                state=RecordDict(),
                run_config={},
            )
        return contexts

    def _work(self) -> None:
        while (message := self._inbox.get()) is not None:
            self._answer(message)
            large = _nbytes(message) >= LARGE_BYTES
            # What the app made of it would stay until the next comes; and the records of Flower hold themselves.
            del message
            if large:
                gc.collect()

    def _answer(self, message: Message) -> None:
        reply = self._serve(message)
        if reply is not None:
            reply.metadata.__dict__["_message_id"] = str(uuid4())
            with self._lock:
                self._replies[message.metadata.message_id] = copy.deepcopy(reply)

    def _serve(self, message: Message) -> Message | None:
        node_id = message.metadata.dst_node_id
        known = self._contexts.get(node_id)
        if known is None:
            return Message(Error(code=ErrorCode.UNKNOWN, reason=f"there is no node {node_id}"), reply_to=message)
        context = copy.deepcopy(known)
        try:
            reply: object = self._app(message, context)
        except Exception as error:  # noqa: BLE001 whatever an app raises is its reply, as in Flower's engine
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason), reply_to=message)
        if not isinstance(reply, Message):
            return None
        self._contexts[node_id] = context
        return reply


def _nbytes(message: Message) -> int:
    records = message.content.values() if message.has_content() else ()
    return sum(len(array.data) for record in records if isinstance(record, ArrayRecord) for array in record.values())
