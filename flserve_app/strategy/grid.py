"""A Grid that delivers versions.

It wraps Flower's Grid. The strategy decides which version goes to whom; this class decides how it travels,
alike for training and evaluation. Rules:
- Nodes are greeted beside the rounds, and those that have not answered are not named to the strategy unless it needs
  more; see `roster`.
- How a model gets into a message is `dispatch`'s, how an update gets out of a reply is `intake`'s.
- A client that refuses a delivery, or whose update cannot be read, is served again within the same call, in full; after
  `MAX_TRIES` it is given up, with one line in the log. One that understands none is sent plain ones; `handlers`.
- Replies come back as full ArrayRecords in the order of the clients' identities. Error replies come last.
- Where the model has private tensors, a client that cannot keep them gets no messages: it is left out.
- A training message that is not answered in time may be answered later; see `late`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from logging import INFO, WARNING
from typing import final

from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from flserve_app.artifact.roles import NO_ROLES
from flserve_app.codec.lossy import Lossy
from flserve_app.errors import DeliveryError, FlserveError, ReplyLost
from flserve_app.fleet import RECIPE, Fleet
from flserve_app.store import Holder
from flserve_app.strategy import roster
from flserve_app.strategy.dispatch import Dispatch, Shared
from flserve_app.strategy.exchange import Exchange, remaining
from flserve_app.strategy.handlers import Handlers
from flserve_app.strategy.intake import Intake
from flserve_app.strategy.late import LateReplies
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.parcel import Outgoing, Parcel
from flserve_app.strategy.patience import Patience
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.reply_failure import failure
from flserve_app.strategy.roster import HELLO_SECONDS, Roster
from flserve_app.strategy.settlements import Settlements
from flserve_app.text import plain

MAX_TRIES = 3


@final
class VersionedGrid(Grid):
    """Flower's Grid with version delivery.

    Args:
        grid: The Grid that carries the messages.
        publisher: Where versions and payloads come from.
        ledger: Where bytes and seconds are counted.
        uplink: Codec name for the clients' updates, an exact one.
        rounds: How they are rounded before; None if they are not.
        late: Rule for late replies: `drop` or `rebase`.
        staleness: Exponent of a late reply's weight.
        hello_seconds: The longest that greetings may take.
        patience: How long the strategy may wait for more nodes before it sends; None for ever, as Flower does.
        base: Digest of an artifact that clients are asked to look for when they are greeted.
        settlements: Which updates were aggregated; None where clients keep nothing of them.
        seed: Of the dither that updates are rounded with.
        private: What of the model stays with the clients.

    Attributes:
        sending: Called with the messages that are about to be sent.

    Raises:
        DeliveryError: From `get_node_ids`, if it is asked again and again for longer than `patience`.
    """

    def __init__(
        self,
        grid: Grid,
        publisher: Publisher,
        ledger: Ledger,
        uplink: str,
        *,
        rounds: Lossy | None = None,
        late: str = "drop",
        staleness: float = 0.5,
        hello_seconds: float = HELLO_SECONDS,
        patience: float | None = None,
        base: str = "",
        settlements: Settlements | None = None,
        seed: int | None = 0,
        private: PrivatePart | None = None,
    ) -> None:
        self._private = private or PrivatePart(NO_ROLES)
        self.sending: Callable[[Iterable[Message]], None] = lambda messages: None
        self._grid = grid
        self._publisher, self._ledger = publisher, ledger
        self._patience = Patience(patience)
        self._hello_seconds = min(HELLO_SECONDS, hello_seconds)
        self._settlements = settlements or Settlements()
        self._intake = Intake(publisher, ledger, self._settlements)
        self._exchange = Exchange(grid, ledger)
        self._roster = Roster(
            publisher.model,
            uplink,
            ledger,
            grid,
            base,
            marks=lambda: (self._private.key, publisher.federation.name),
            earlier=publisher.held_before(),
            renamed=self._settlements.renamed,
        )
        self._handlers = Handlers(self._roster, ledger, self._private)
        self._late = LateReplies(
            publisher, ledger, self._roster, rule=late, exponent=staleness, settlements=self._settlements
        )
        self._dispatch = Dispatch(
            publisher,
            ledger,
            self._roster,
            uplink,
            late=self._late,
            settlements=self._settlements,
            rounds=rounds,
            seed=seed,
            private=self._private,
        )

    @property
    def fleet(self) -> Fleet:
        """The clients as they are known."""
        return self._roster.fleet

    @property
    def server_round(self) -> int:
        """The round that goes on."""
        return self._roster.server_round

    def holders(self) -> list[Holder]:
        """Return what the clients hold that answered in this round."""
        return self._roster.holders()

    def enter(self, server_round: int) -> None:
        """Begin a round."""
        self._roster.server_round = server_round
        self._patience.over()
        self._settlements.enter()

    def set_run(self, run: Run) -> None:
        """Set the run, as Flower's Grid does."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run, as Flower's Grid knows it."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message, as Flower's Grid does."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes' information, as Flower's Grid does."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages as they are, which is said once; only `send_and_receive` delivers versions."""
        return self._exchange.push(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies as they are; only `send_and_receive` takes updates in."""
        return self._grid.pull_messages(message_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that answered their greeting, in the order of the clients' identities.

        Those that did not are named, too, once the strategy kept asking for `GRACE_SECONDS`: then it needs more.
        """
        node_ids = self.connected()
        waited = self._patience.asked(self.server_round, len(node_ids))
        self._roster.meet(node_ids)
        silent = set(self.fleet.unknown(node_ids)) if waited < roster.GRACE_SECONDS else ()
        return self.fleet.order(node_id for node_id in node_ids if node_id not in silent)

    def connected(self) -> list[int]:
        """Return the ids of the nodes that Flower lists now, met or not."""
        return list(self._grid.get_node_ids())

    def meet(self, node_ids: Iterable[int], timeout: float = HELLO_SECONDS) -> None:
        """Greet the nodes that are new, and wait for their answers; see `Roster.meet`."""
        self._roster.meet(node_ids, min(self._hello_seconds, timeout))

    def partitions(self, node_ids: Iterable[int]) -> int:
        """Return how many nodes most of these say there are, of those that answered; 0 if they do not say."""
        return self._roster.partitions(node_ids)

    def late_replies(self, weighted_by: str | None) -> list[Message]:
        """Return replies to earlier rounds that may take part in this one, moved to the current version."""
        return self._late.collect(self._exchange.pulls, self.server_round, weighted_by)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver versions with the messages, and return the replies with full ArrayRecords.

        Args:
            messages: What the strategy configured.
            timeout: Seconds for the whole exchange, resends included; None to wait for all.
        """
        outgoing = list(messages)
        self.sending(outgoing)
        self._patience.over()
        deadline = None if timeout is None else time.monotonic() + timeout
        self._roster.meet_addressed(outgoing, HELLO_SECONDS if timeout is None else timeout)
        arrived: list[Message] = []
        waiting = [(message, self._dispatch.parcel(message)) for message in outgoing]
        waiting = self._dispatch.beside([(message, parcel) for message, parcel in waiting if self._admits(parcel)])
        while waiting:
            waiting = self._exchanged(waiting, deadline, arrived)
        return self._ordered(arrived)

    def _admits(self, parcel: Parcel) -> bool:
        met = parcel.node_id in self.fleet.clients
        why = self._private.refuses(self.fleet.get(parcel.node_id), met=met) if parcel.arrays else ""
        if why:
            self._ledger.failed()
            log(WARNING, "flserve: %s is left out: %s", parcel.identity, why)
        return not why

    def _exchanged(self, waiting: list[Outgoing], deadline: float | None, arrived: list[Message]) -> list[Outgoing]:
        """Deliver, and read the replies into `arrived`; return the messages to send again."""
        shared: Shared = {}
        sent = {id(message): self._dispatch.address(message, parcel, shared) for message, parcel in waiting}
        batch = [message for message, _ in waiting]
        by_id: dict[str, Parcel] = {}
        by_node = {parcel.node_id: parcel for parcel in sent.values()}
        silent = {id(sent[id(message)]): (message, sent[id(message)]) for message in batch}
        answered: set[int] = set()
        again: list[Outgoing] = []
        for reply in self._exchange.replies(batch, remaining(deadline)):
            # They have an id once they are sent, which is when the first reply is asked for.
            by_id = by_id or {message.metadata.message_id: sent[id(message)] for message in batch}
            parcel = by_id.get(reply.metadata.reply_to_message_id) or by_node.get(reply.metadata.src_node_id)
            if parcel is None:
                log(WARNING, "flserve: a reply of node %d answers nothing that was sent", reply.metadata.src_node_id)
                continue
            if id(parcel) in answered or (reply.has_content() and reply.metadata.src_node_id != parcel.node_id):
                log(WARNING, "flserve: node %d answers what is not its own to answer", reply.metadata.src_node_id)
                continue
            answered.add(id(parcel))
            silent.pop(id(parcel), None)
            again += self._accept(reply, parcel, arrived)
        own, resent = self._handlers.settle(remaining(deadline))
        for reply, parcel in own:
            again += self._accept(reply, parcel, arrived, settled=True)
        for message, parcel in silent.values():
            self._ledger.failed()
            self._late.expect(message.metadata.message_id, parcel, self.server_round)
            log(WARNING, "flserve: %s did not answer in time", self.fleet.get(parcel.node_id).identity)
        return again + resent

    def _accept(
        self, reply: Message, parcel: Parcel, arrived: list[Message], *, settled: bool = False
    ) -> list[Outgoing]:
        """Read a reply into `arrived`, unless it is doubted; return the message if it is to be sent again."""
        try:
            if settled or not self._handlers.doubts(reply, parcel):
                arrived.append(self._read(reply, parcel))
        except Exception as error:  # noqa: BLE001 one client's reply: whatever is wrong with it is its own failure
            return self._retry(parcel, failure(error))
        return []

    def _read(self, reply: Message, parcel: Parcel) -> Message:
        read, answer = self._intake.read(reply, parcel)
        if answer is not None:
            version = self._publisher.number_of(parcel.target) if answer.status == "ok" else -1
            self._roster.heard(parcel.node_id, answer, version if version >= 0 else None)
            if answer.status == "ok":
                self._dispatch.followed(parcel)
            if answer.status == "nack":
                raise DeliveryError(answer.reason or "no reason given")
        return read

    def _retry(self, parcel: Parcel, error: FlserveError) -> list[Outgoing]:
        identity = self.fleet.get(parcel.node_id).identity
        if (parcel.plan is None and not isinstance(error, ReplyLost)) or parcel.tries + 1 >= MAX_TRIES:
            self._ledger.failed()
            log(WARNING, "flserve: %s is given up after %d tries: %s", identity, parcel.tries + 1, plain(error))
            return []
        log(INFO, "flserve: %s is served again in full: %s", identity, plain(error))
        if parcel.plan is not None and parcel.plan.kind == "recipe" and not isinstance(error, ReplyLost):
            self._roster.takes_no_more(parcel.node_id, RECIPE)
        return [(parcel.message(), replace(parcel, plan=None, tries=parcel.tries + 1))]

    def _ordered(self, replies: list[Message]) -> list[Message]:
        nodes = dict.fromkeys(reply.metadata.src_node_id for reply in replies)
        place = {node_id: at for at, node_id in enumerate(self.fleet.order(nodes))}
        return sorted(replies, key=lambda reply: (reply.has_error(), place[reply.metadata.src_node_id]))
