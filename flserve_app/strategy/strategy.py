"""`VersionedStrategy`: any Flower strategy, with versions.

It wraps a strategy and changes what is around it, never what it computes. Rules:
- Version 0 is published before the first round, and every aggregate right after it was computed, in the
  dtypes of the version before; the loop goes on with the published one.
- The inner strategy sees full ArrayRecords in the order of the clients' identities, and no error replies; see
  `inner`, and `compatibility` for what is refused.
- What it draws from `random` is a function of (seed, round, phase): two runs of a config are the same.
- What it remembers is stored with each version, in the same transaction: a resumed run goes on as if it had
  never stopped.
- A model name that exists is continued only when asked to; nothing is ever overwritten.
- One run at a time has a model's name: it holds its lease from the first look at it to the end (`store.leases`).
- Private tensors (`roles`) stay with the clients: versions, the inner strategy and the result have none of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from logging import INFO
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import Roles
from flserve_app.codec.lossy import Lossy
from flserve_app.codec.ramp import Ramp
from flserve_app.delivery import CacheInfo
from flserve_app.errors import AggregateError, ConfigError
from flserve_app.registry import Registry
from flserve_app.store import Serving, Version
from flserve_app.strategy.attempt import Attempts
from flserve_app.strategy.codec_settings import settled
from flserve_app.strategy.compatibility import check_lossy, check_private
from flserve_app.strategy.conclusion import conclude, with_arrays
from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.history import History
from flserve_app.strategy.initial import check_started
from flserve_app.strategy.inner import NO_SCHEDULES, Inner, note_refused
from flserve_app.strategy.ledger import Ledger, RoundRow
from flserve_app.strategy.nodes import wait_for_nodes
from flserve_app.strategy.opening import digest_of, leased, opened, settled_name
from flserve_app.strategy.own_place import open_place
from flserve_app.strategy.own_start import Loop
from flserve_app.strategy.parcel import trains
from flserve_app.strategy.private_part import PrivatePart
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.roster import HELLO_SECONDS
from flserve_app.strategy.rounds import Rounds
from flserve_app.strategy.row_line import log_row
from flserve_app.strategy.savings import closing
from flserve_app.strategy.settlements import Settlements
from flserve_app.strategy.starts import Starts
from flserve_app.strategy.statistics import Statistics
from flserve_app.strategy.transparent import Transparent

NO_PATTERNS: Mapping[str, str] = MappingProxyType({})


@final
class VersionedStrategy(Transparent):
    """A Flower strategy that publishes versions and delivers them as what each client lacks.

    Args:
        inner: The strategy that samples and aggregates; FedAvg by default.
        store: Directory of the version store, or an open registry.
        codec: Delivery codec: `full`, `lossless` or `lossless-small`, or the settings of a lossy one (`lossy_of`).
        uplink: Codec of the clients' updates, relative to the version they were given; likewise.
        model_name: Name the versions are published under; None for `model`, or the next that is free: `model-2`. With
            `resume` it is the last of these that is there.
        seed: Seed of the inner strategy's sampling; None leaves it to Python's `random`.
        run: Id of the run, recorded with each version.
        serving: What serving a version takes, recorded with each version. With a seed it is a recipe for the first
            version: a client that can build it is not sent it.
        resume: Go on from the last version of a model name that exists.
        num_clients: Clients to wait for before the first round; None for all that the nodes know of.
        wait_seconds: How long to wait for them, and in any round for as many as the inner strategy needs.
        observer: Called with every finished round's row; None logs it in a line (`log_row`).
        late: What becomes of replies that come after their round: `drop`, or `rebase` (see `late`).
        base_version: A version that clients may hold from elsewhere, `MODEL@REF` in the store or a whole digest: who
            finds it in its cache directory gets what it lacks from there.
        staleness: Exponent of a rebased reply's weight, `num-examples * (1 + lag in versions) ** -staleness`.
        schedules: Numbers of the inner strategy that change with the round, by attribute.
        roles: What tensors are for, by patterns of their names (`artifact.roles`): `private` ones never travel,
            `statistic` and `buffer` ones are never rounded. `evaluate_fn` sees private ones as they were initially.
        nonfinite: What becomes of updates that are not finite: `keep` or `leave_out`. None leaves them out under
            medians, trimmed means, Krum's kin and privacy, which one of them breaks, and keeps them elsewhere.

    Raises:
        CodecError: If a codec is unknown.
        ConfigError: If the inner strategy cannot be combined with versions, or with the rule for late replies.
        NotFound: If there is no base version of that name.
        StoreError: If the store cannot be opened.
    """

    def __init__(
        self,
        inner: Strategy | None = None,
        *,
        store: str | Path | Registry,
        codec: str | Lossy = "lossless",
        uplink: str | Lossy = "lossless",
        model_name: str | None = None,
        seed: int | None = 0,
        run: str | None = None,
        serving: Serving | None = None,
        resume: bool = False,
        num_clients: int | None = None,
        wait_seconds: float = 300.0,
        observer: Callable[[RoundRow], None] | None = None,
        late: str = "drop",
        staleness: float = 0.5,
        schedules: Mapping[str, Ramp] = NO_SCHEDULES,
        base_version: str | None = None,
        roles: Mapping[str, str] = NO_PATTERNS,
        nonfinite: str | None = None,
    ) -> None:
        if not (math.isfinite(staleness) and staleness >= 0):
            raise ConfigError(f"staleness is {staleness}, expected a number of 0 or more")
        self.inner = FedAvg() if inner is None else inner
        self._named = tuple(each if isinstance(each, str) else each.name for each in (codec, uplink))
        self._private = PrivatePart(Roles.from_pairs(roles.items()))
        lossy, self._codec = settled(codec, self._private.roles)
        self._rounds_up, self._uplink = settled(uplink, self._private.roles)
        self._settlements = Settlements(active=self._rounds_up is not None and self._rounds_up.feedback.decay > 0)
        follows = lossy is not None
        options: dict[str, Any] = {"schedules": schedules, "follows": follows, "nonfinite": nonfinite}
        self._inner = Inner(self.inner, seed, late, self._leave_out, **options)
        self._statistics = Statistics(self.inner, self._private.roles, rounded=follows or self._rounds_up is not None)
        self._trainings, self._evaluations = Attempts("training"), Attempts("evaluation")
        check_lossy(self._inner.traits, uplink=self._rounds_up, codec=lossy)
        check_private(self._inner.traits, self._private.roles)
        self.registry = store if isinstance(store, Registry) else opened(store)
        self._num_clients, self._wait_seconds = num_clients, wait_seconds
        self._ledger = Ledger()
        model = settled_name(self.registry, model_name, resume=resume)
        self._publisher = Publisher(self.registry, model, self._codec, run, serving, lossy=lossy, ledger=self._ledger)
        parts: dict[str, Any] = {"private": self._private, "settlements": self._settlements}
        self._history = History(self.registry, self._publisher, self.inner, resume=resume, **parts)
        self._rounds = Rounds(self._publisher, self._ledger, observer or log_row)
        rules: dict[str, Any] = {"late": late, "staleness": staleness, "patience": wait_seconds, "seed": seed}
        self._over = partial(
            VersionedGrid,
            publisher=self._publisher,
            ledger=self._ledger,
            uplink=self._uplink,
            rounds=self._rounds_up,
            base="" if base_version is None else digest_of(base_version, self.registry),
            **rules,
            **parts,
        )
        self._grid: VersionedGrid | None = None
        self._starts, self._built = Starts(), True

    @property
    def version(self) -> Version:
        """The newest published version."""
        return self._publisher.version

    def cache_info(self) -> CacheInfo:
        """Return how many payloads were made, and how often one was used again."""
        return self._publisher.cache_info()

    def summary(self) -> None:
        """Log the settings of the delivery and of the inner strategy."""
        self._starts.anew()
        log(INFO, "\t├──> Versions: model '%s'", self._publisher.model)
        log(INFO, "\t│\t├── Delivery: %s down, %s up", *self._named)
        log(INFO, "\t│\t└── Inner strategy: %s", type(self.inner).__name__)
        self.inner.summary()

    @leased
    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the federation, as Flower's `Strategy.start` does, with versions.

        It takes what Flower's takes: grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config and
        evaluate_fn. Around a strategy with a `start` of its own it takes what that takes, and runs it (`own_start`).
        The initial arrays become version 0, unless a run is resumed; they may be an artifact, which can have bfloat16
        tensors: apps get them as float32. A resumed run does the rounds of `num_rounds` that are left, a second start
        as many more, from the arrays that it is given (`starts`).

        Raises:
            Conflict: If the model name exists and is not to be resumed, or another run has it.
            DeliveryError: If fewer clients than expected connect, or than a round needs stay.
            AggregateError: If no aggregate could be made in two rounds in a row, or in any.
        """
        loop = Loop(self.inner, args, kwargs)
        latest, first = self._history.open(loop.needed("initial_arrays"))
        asked = loop.rounds(resumed=latest is not None and not self._history.again)
        left = self._starts.begin(asked, 0 if latest is None else latest.round)
        grid = self._grid = self._over(grid=loop.needed("grid"), hello_seconds=loop.seconds(HELLO_SECONDS))
        with self._starts.until_done(asked):
            self._rounds.begin(grid, self._starts.offset, early=not loop.own)
            self._inner.told, grid.sending = self._starts.told, self._sending
            kept = bool(self._private.key or self._settlements.active)
            open_place(grid, self.registry.database.folder, needed=kept)
            wait_for_nodes(grid, self._num_clients, self._wait_seconds)
            self._history.begin(grid, latest, first, asked, new=not self._starts.shift)
            result = self._run(loop, grid, left)
        self._rounds.finish()
        log(INFO, "flserve: %s", closing(self._rounds.savings, self.version, self.registry))
        return self._trainings.over(result)

    def _run(self, loop: Loop, grid: VersionedGrid, left: int | None) -> Result:
        published = self.version.number
        evaluate_fn = self._private.completing(loop.get("evaluate_fn"))
        evaluating = self._rounds.evaluating(evaluate_fn, self._starts.shift)
        result = loop.run(self, grid, self._publisher.record, num_rounds=left, evaluate_fn=evaluating)
        if loop.own and left != 0:
            conclude(result, self._publisher, self._publish, type(self.inner).__name__, since=published)
        trained = left == 0 or self.version.round > 0  # where nothing ever was, there is no result, as in plain Flower
        return with_arrays(result, self._publisher.record) if trained else result

    def _sending(self, messages: Iterable[Message]) -> None:
        """Begin a round with messages that a loop made itself."""
        if any(map(trains, messages)) and (number := self._starts.sends()) is not None:
            self._rounds.enter(number)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure a round of training, from a draw that repeats."""
        check_started(self._grid, type(self.inner).__name__)
        number = self._rounds.enter(self._starts.trains(server_round))
        return self._inner.configure_train(number, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the inner strategy aggregate, and publish the result as the next version."""
        check_started(self._grid, type(self.inner).__name__)
        number = self._starts.aggregates(server_round)
        late = [] if self._grid is None else self._grid.late_replies(self._inner.weighted_by)
        try:
            (version, metrics), used = self._inner.aggregate_train(number, [*replies, *late], self._publisher.artifact)
        except AggregateError as error:
            self._rounds.skipped(self._trainings.failed(number, error))
            return None, None
        self._trainings.made(bool(used))
        self._rounds.aggregated(len(used), metrics)
        if version is None:
            return None, metrics
        started = time.perf_counter()
        self._settlements.aggregated(used)
        self._publish(self._statistics.measured(version, used))
        self._ledger.spent("publish", time.perf_counter() - started)
        return self._publisher.go_on_in(self._inner.made), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy configure a round of evaluation, from a draw that repeats."""
        check_started(self._grid, type(self.inner).__name__)
        return self._inner.configure_evaluate(self._starts.number(server_round), arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Let the inner strategy aggregate the clients' evaluation of the published version."""
        check_started(self._grid, type(self.inner).__name__)
        number = self._starts.number(server_round)
        try:
            metrics = self._inner.aggregate_evaluate(number, replies)
        except AggregateError as error:
            metrics = None
            self._rounds.skipped(self._evaluations.failed(number, error))
        self._evaluations.made(metrics is not None)
        self._record_clients()  # before the row is handed over: whoever gets it may look
        self._rounds.evaluated(metrics)
        return metrics

    def _publish(self, artifact: Artifact) -> None:
        """Make an artifact a version of the newest round."""
        self._history.publish(artifact, self._starts.last)

    def _record_clients(self) -> None:
        """Record who holds what, once a round: what the fleet may still build on is kept."""
        if self._grid is not None:
            self.registry.saw_clients(self._publisher.model, self._grid.holders())

    def _leave_out(self, node_id: int, reason: str) -> None:
        self._ledger.failed()
        identity = f"node-{node_id}" if self._grid is None else self._grid.fleet.get(node_id).identity
        note_refused(identity, reason)
