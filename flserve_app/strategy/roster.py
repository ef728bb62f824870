"""Who is there: nodes are greeted beside the rounds, and remembered by what they answer.

Rules:
- A node that is met for the first time is greeted: it says who it is and what it holds. One that does not
  know the greeting gets plain arrays, as without flserve.
- Answers are taken when they come. They are waited for before the first round alone, because the order of clients is
  that of their identities, and where a node is written to before it was ever greeted: until all have answered, and
  no longer than the bound, nor than `START_SECONDS` (or `PATIENCE` times what it took till then) after the last.
- A node that did not answer is unknown: it is not named to the strategy unless there are too few without it, and
  gets plain arrays if it is written to. It is greeted again in later rounds, more and more seldom.
- One whose greeting failed is greeted again like the first message of each type that brings it a model, with its other
  records: its handler may have a name, or a mod before ours read them; then in later rounds, `GREETINGS` times in all.
- What a node says is bound to it: whose an identity is, see `identities`; what it holds counts as a base only if it
  was delivered to that identity, in this run or an earlier one, or is the one the operator named: a delta from
  anything else would tell it what that is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from logging import INFO, WARNING
from types import MappingProxyType
from typing import final

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from flserve_app.client.wire import Answer, Delivery, put_delivery, take_answer
from flserve_app.fleet import Client, Fleet
from flserve_app.store import Holder
from flserve_app.strategy.greetings import Greetings
from flserve_app.strategy.identities import Identities, own_name, registered_keys
from flserve_app.strategy.intake import last_line
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.message_size import message_bytes
from flserve_app.strategy.parcel import brings_model
from flserve_app.strategy.spoken import Spoken
from flserve_app.text import plain

EXPECTED = "one without versioned_mod may log an error of its handler now, which is expected: it goes on as without us"
FIRST = "train"  # the type of a greeting before it is known what the node will be sent
HELLO_SECONDS = 120.0
START_SECONDS = 15.0  # a node that loads torch answers late, and who is in round 1 must not depend on the weather
GRACE_SECONDS = 5.0
PATIENCE = 3.0
GREETINGS = 3
MOST_PARTITIONS = 1 << 20
LAST_GIVEN = 8  # deliveries to one client without an answer that says what became of them
FIRST_PAUSE = 0.01
LONGEST_PAUSE = 0.5

NO_HOLDINGS: Mapping[str, str] = MappingProxyType({})


@final
class Roster:
    """The clients as the server knows them.

    Args:
        model: Name of the model they are asked about.
        uplink: Codec name for their updates.
        ledger: Where bytes are counted.
        grid: The Grid that carries the greetings.
        base: Digest of an artifact that they are asked to look for; empty for none.
        marks: Returns what tells this federation from others: key of the private tensors' layout, name of the history.
        earlier: What version of the model each identity held when an earlier run last heard of it.
        renamed: Called with the names a client had and has, when it has its identity after all.
    """

    def __init__(
        self,
        model: str,
        uplink: str,
        ledger: Ledger,
        grid: Grid,
        base: str = "",
        *,
        marks: Callable[[], tuple[str, str]] = lambda: ("", ""),
        earlier: Mapping[str, str] = NO_HOLDINGS,
        renamed: Callable[[str, str], None] = lambda before, after: None,
    ) -> None:
        self._marks = marks
        self._model = model
        self._uplink = uplink
        self._base = base
        self._ledger = ledger
        self._grid = grid
        self._earlier = earlier
        self._renamed = renamed
        self._greetings = Greetings(grid, ledger, self._hello)
        self._identities = Identities()
        self._there: frozenset[int] | None = None
        self._failed: set[int] = set()
        self._silent: set[int] = set()
        self._doubted: set[int] = set()
        self.spoken = Spoken()
        self._began: float | None = None
        self._answered = 0.0
        self._given: dict[str, tuple[str, ...]] = {}
        self._claimed: dict[int, tuple[str, ...]] = {}
        self._partitions: dict[int, int] = {}
        self.fleet = Fleet()
        self.server_round = 0

    def meet(self, node_ids: Iterable[int], timeout: float = 0.0) -> None:
        """Greet the nodes that are new, and take the answers that are there.

        Args:
            node_ids: Nodes that are connected.
            timeout: The longest to wait for answers, in seconds.
        """
        listed = list(dict.fromkeys(node_ids))
        self._there = None
        self._take_answers()
        due = [node_id for node_id in listed if self._is_due(node_id)]
        if due:
            if self._began is None:
                log(INFO, "flserve: greeting the clients: %s", EXPECTED)
            self._began = self._began or time.monotonic()
            self._identities.know(registered_keys(self._grid))
            self._greetings.send(due, self.server_round)
            self._take_answers()
        if timeout > 0:
            self._wait(self.fleet.unknown(listed), len(listed), timeout)

    def meet_addressed(self, messages: Iterable[Message], timeout: float) -> None:
        """Meet nodes that are about to be written to; those that were never greeted, or in vain, are waited for."""
        by_node = {message.metadata.dst_node_id: message for message in messages}
        listed = list(by_node)
        new = any(not self._greetings.times(node_id) for node_id in self.fleet.unknown(listed))
        self.meet(listed, min(timeout, GRACE_SECONDS) if new else 0.0)
        again = [message for node_id, message in by_node.items() if self._is_due_again(node_id, message)]
        self.ask(again, timeout)

    def ask(self, messages: Iterable[Message], timeout: float | None) -> None:
        """Greet nodes like messages that they failed on, and wait for their answers."""
        by_node = {message.metadata.dst_node_id: message for message in messages}
        if by_node:
            for node_id, message in by_node.items():
                self.spoken.ask((node_id, message.metadata.message_type))
            self._greetings.send(list(by_node), self.server_round, by_node)
            limit = START_SECONDS if timeout is None else min(timeout, START_SECONDS)
            self._wait(by_node, len(by_node), limit, others=1)  # an error was an answer, too

    def delivers(self, node_id: int, message_type: str) -> bool:
        """Whether a model goes to a node as a delivery in messages of a type, as far as is known."""
        known = self.fleet.clients.get(node_id)
        return known is not None and known.versioned and not self.spoken.is_plain((node_id, message_type))

    def partitions(self, node_ids: Iterable[int]) -> int:
        """Return the number of partitions that most of those nodes that answered know of; 0 if they know no such."""
        said = [self._partitions[node_id] for node_id in node_ids if node_id in self._partitions]
        number, sayers = Counter(said).most_common(1)[0] if said else (0, 0)
        return number if 2 * sayers > len(said) else 0

    def heard(self, node_id: int, answer: Answer, version: int | None) -> None:
        """Note who answered and what it holds."""
        identity = self._bound(node_id, answer.identity)
        self._claimed[node_id] = answer.held
        known = {*self.fleet.get(node_id).held, *self._given.get(identity, ()), self._base, self._earlier.get(identity)}
        self.fleet = self.fleet.heard(
            node_id,
            identity=identity,
            held=tuple(digest for digest in answer.held if digest in known),
            version=version,
            server_round=self.server_round,
            takes=answer.capabilities,
            keeps=answer.private,
        )

    def gave(self, node_id: int, digest: str) -> None:
        """Note that an artifact was delivered to a node: to its identity, which outlives it."""
        self._note_given(self.fleet.get(node_id).identity, (digest,))

    def claimed(self, node_id: int) -> tuple[str, ...]:
        """Return all that a node says it holds: good for nothing that could tell it something."""
        return self._claimed.get(node_id, ())

    def bases(self, node_id: int, target: str) -> tuple[str, ...]:
        """Return what a delivery of a target may build on: what the client says is the target is sent nothing."""
        held = self.fleet.get(node_id).held
        return (target, *held) if target in self.claimed(node_id) and target not in held else held

    def holders(self) -> list[Holder]:
        """Return what the clients hold that answered in this round.

        One without an identity of its own goes by its node, whose id is another one in every run: it is left out.
        """
        return [
            Holder(identity=each.identity, digest=each.held[0], number=each.version, round=each.last_round)
            for each in self.fleet.clients.values()
            if each.held and each.last_round == self.server_round and each.identity != own_name(each.node_id)
        ]

    def takes_no_more(self, node_id: int, what: str) -> None:
        """Note that a client cannot be sent something that it said it could."""
        self.fleet = self.fleet.takes_no_more(node_id, what)

    def _is_due(self, node_id: int) -> bool:
        return node_id not in self.fleet.clients and self._greetings.due(node_id, self.server_round)

    def _is_due_again(self, node_id: int, message: Message) -> bool:
        if node_id not in self._failed or not brings_model(message):
            return False
        if not self.spoken.was_asked((node_id, message.metadata.message_type)):
            return True
        return self._greetings.times(node_id) < GREETINGS and self._greetings.due(node_id, self.server_round)

    def _wait(self, unknown: Iterable[int], of: int, timeout: float, others: int = 0) -> None:
        waiting = set(unknown)
        started = now = time.monotonic()
        pause = FIRST_PAUSE
        while waiting and now - started < timeout and not (len(waiting) < of + others and self._is_quiet(started, now)):
            time.sleep(min(pause, max(0.0, started + timeout - now)))
            answered = self._take_answers()
            waiting -= answered
            pause = FIRST_PAUSE if answered else min(2 * pause, LONGEST_PAUSE)
            now = time.monotonic()
        self._ledger.spent("wait", now - started)
        if waiting - self._silent:
            log(WARNING, "flserve: %d of %d nodes did not answer the greeting", len(waiting), of)
            self._silent |= waiting

    def _is_quiet(self, started: float, now: float) -> bool:
        """Whether those that answer have answered, as far as one can tell: nothing came for long."""
        took = 0.0 if self._began is None else self._answered - self._began
        return now - max(started, self._answered) >= max(START_SECONDS, PATIENCE * took)

    def _take_answers(self) -> set[int]:
        answered = set()
        for node_id, kind, reply in self._greetings.answers():
            answered.add(node_id)
            self._answered = time.monotonic()
            self._welcome(node_id, kind, reply)
        return answered

    def _hello(self, node_id: int, like: Message | None) -> Message:
        records = {} if like is None else dict(like.content)
        content = RecordDict({key: each for key, each in records.items() if not isinstance(each, ArrayRecord)})
        private, federation = self._marks()
        hello = Delivery(action="hello", model=self._model, uplink=self._uplink, base=self._base)
        put_delivery(content, replace(hello, private=private, federation=federation))
        return Message(content, dst_node_id=node_id, message_type=FIRST if like is None else like.metadata.message_type)

    def _welcome(self, node_id: int, kind: str, reply: Message) -> None:
        try:
            self._ledger.sent("up", payload=0, message=message_bytes(reply), full=0)
            answer = take_answer(RecordDict(dict(reply.content))) if reply.has_content() else None
        except Exception as error:  # noqa: BLE001 whatever one node answers is that node's failure
            log(WARNING, "flserve: node %d gets plain arrays: %s", node_id, plain(error))
            answer = None
        if answer is None:
            self._take_for_plain(node_id, kind, str(reply.error.reason or "") if reply.has_error() else None)
            return
        self._failed.discard(node_id)
        self.spoken.answer((node_id, kind))
        self._partitions[node_id] = answer.partitions if 0 < answer.partitions <= MOST_PARTITIONS else 0
        self.heard(node_id, answer, None)

    def _take_for_plain(self, node_id: int, kind: str, error: str | None) -> None:
        """Take a node for one without the delivery protocol, at least before that handler, and say why."""
        known = self.fleet.clients.get(node_id, Client(node_id=node_id, identity=own_name(node_id)))
        if not self.spoken.is_plain((node_id, kind)) and not (known.versioned and node_id in self.fleet.clients):
            why = "has no versioned_mod" if error is None else f"failed on its greeting: {last_line(error)}"
            log(INFO, "flserve: node %d gets plain arrays until it answers in %s: it %s", node_id, kind, why)
        self.spoken.fail((node_id, kind))
        if error is not None:
            self._failed.add(node_id)
        self._partitions.setdefault(node_id, 0)
        if node_id not in self.fleet.clients:
            self.fleet = self.fleet.put(replace(known, versioned=False))

    def _bound(self, node_id: int, said: str) -> str:
        """Return what a node goes by; one line in the log for one that does not go by what it says."""
        name = self._identities.said(node_id, said, self._connected)
        if name.why and node_id not in self._doubted:
            self._doubted.add(node_id)
            log(WARNING, "flserve: node %d says it is %s, %s: it is %s", node_id, said, name.why, name.identity)
        before = self.fleet.clients.get(node_id)
        if before is not None and before.identity != name.identity:
            log(INFO, "flserve: %s is %s from now on", before.identity, name.identity)
            if before.identity == own_name(node_id):
                self._note_given(name.identity, self._given.pop(before.identity, ()))
                self._renamed(before.identity, name.identity)
        return name.identity

    def _note_given(self, identity: str, digests: tuple[str, ...]) -> None:
        before = (digest for digest in self._given.get(identity, ()) if digest not in digests)
        self._given[identity] = (*before, *digests)[-LAST_GIVEN:]

    def _connected(self) -> frozenset[int]:
        if self._there is None:
            self._there = frozenset(self._grid.get_node_ids())
        return self._there
