"""The shape of a configuration: one dataclass an option, checked when it is built.

These are mutable because Hydra merges into them; they live from composition to `compose.py`, which turns them
into frozen values. A misspelt key or a wrong type fails at composition, a value out of its range here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from flserve_app.errors import ConfigError, StoreError
from flserve_app.text import is_plain, plain

MAX_ROUNDS = 1_000_000
MOST_PATH_CHARACTERS = 4096
ENGINES = ("simulation", "inprocess")
OPTIMIZERS = ("sgd", "adam")
LATE_RULES = ("drop", "rebase")
NONFINITE_RULES = ("keep", "leave_out")
DP_KINDS = ("none", "server_fixed", "server_adaptive", "client_fixed", "client_adaptive", "local")


@dataclass
class HubConfig:
    """An image data set of the Hugging Face Hub; fields as in `flserve_app.task.HubSource`."""

    dataset: str = ""
    subset: str = ""
    revision: str = ""
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    side: int = 28
    channels: int = 1


@dataclass
class TaskConfig:
    """Data and how it is dealt out; fields as in `flserve_app.task.TaskSpec`."""

    name: str = MISSING
    n: int = 200
    dim: int = 32
    classes: int = 10
    partition: str = "iid"
    alpha: float = 0.5
    val_fraction: float = 0.0
    hub: HubConfig = field(default_factory=HubConfig)


@dataclass
class ModelConfig:
    """A model kind and its arguments."""

    name: str = MISSING
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainConfig:
    """Local training.

    Attributes:
        epochs: Passes over a client's data a round.
        batch_size: Examples a step.
        lr: Learning rate.
        momentum: SGD momentum.
        proximal: mu of FedProx's proximal term; a strategy that sends its own overrules it.
        optimizer: `sgd`, or `adam`, which starts afresh in each round and has no use for `momentum`.
    """

    epochs: int = 3
    batch_size: int = 32
    lr: float = 0.05
    momentum: float = 0.9
    proximal: float = 0.0
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        _at_least("train.epochs", self.epochs, 1)
        _at_least("train.batch_size", self.batch_size, 1)
        _positive("train.lr", self.lr)
        if not 0.0 <= self.momentum < 1.0:
            raise ConfigError(f"train.momentum is {self.momentum}, expected a value from 0 to below 1")
        _not_negative("train.proximal", self.proximal)
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"train.optimizer is {self.optimizer!r}, expected one of: {', '.join(OPTIMIZERS)}")


@dataclass
class CodecConfig:
    """A codec by its name, and the arguments of a lossy one; see `flserve_app.codec.lossy.lossy_of`."""

    name: str = MISSING
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class DpConfig:
    """Differential privacy, by Flower's wrappers and mods. Its noise is never seeded: such runs do not repeat.

    Attributes:
        kind: `none`; clipping at the server or the client, to a fixed or an adaptive norm, with noise at the
            server (`server_fixed`, `server_adaptive`, `client_fixed`, `client_adaptive`); or `local`, clipping
            and noise at the client.
        noise_multiplier: Noise in units of the clipping norm; 0 for none.
        clipping_norm: Largest L2 norm of an update; where it starts, if it is adaptive.
        target_clipped_quantile: Share of updates that shall be clipped, if adaptive.
        clip_norm_lr: Learning rate of the norm, if adaptive.
        clipped_count_stddev: Noise on the count of clipped updates, if adaptive; null for a twentieth of the clients.
        sensitivity: Of the model, if local.
        epsilon: Privacy budget a round, if local.
        delta: Probability that the guarantee fails, if local.
    """

    kind: str = "none"
    noise_multiplier: float = 1.0
    clipping_norm: float = 1.0
    target_clipped_quantile: float = 0.5
    clip_norm_lr: float = 0.2
    clipped_count_stddev: float | None = None
    sensitivity: float = 1.0
    epsilon: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        if self.kind not in DP_KINDS:
            raise ConfigError(f"strategy.dp.kind is {self.kind!r}, expected one of: {', '.join(DP_KINDS)}")
        for name in ("clipping_norm", "clip_norm_lr", "epsilon"):
            _positive(f"strategy.dp.{name}", getattr(self, name))
        for name in ("noise_multiplier", "sensitivity", "clipped_count_stddev"):
            _not_negative(f"strategy.dp.{name}", getattr(self, name) or 0.0)
        if not 0 <= self.target_clipped_quantile <= 1:
            raise ConfigError(
                f"strategy.dp.target_clipped_quantile is {self.target_clipped_quantile}, expected a value from 0 to 1"
            )
        if not 0 < self.delta < 1:
            raise ConfigError(f"strategy.dp.delta is {self.delta}, expected a value above 0 and below 1")


@dataclass
class StrategyConfig:
    """The inner strategy.

    Attributes:
        name: Its name.
        clients_per_round: Clients that train in a round; null for all.
        clients_per_evaluation: Clients that evaluate each version; 0 for none.
        arguments: Keyword arguments of the strategy itself.
        schedules: Those of its arguments that change with the round, each as [start, end, rounds].
        dp: Differential privacy around it.
        late: What becomes of replies that come after their round: `drop` or `rebase`.
        staleness: Exponent of a rebased reply's weight, (1 + versions it lags) ** -staleness.
        nonfinite: What becomes of updates that are not finite: `keep` or `leave_out`; null leaves them out under
            medians, trimmed means, Krum's kin and privacy, and keeps them elsewhere.
    """

    name: str = MISSING
    clients_per_round: int | None = None
    clients_per_evaluation: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, Any] = field(default_factory=dict)
    dp: DpConfig = field(default_factory=DpConfig)
    late: str = "drop"
    staleness: float = 0.5
    nonfinite: str | None = None

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        if self.clients_per_round is not None:
            _at_least("strategy.clients_per_round", self.clients_per_round, 1)
        _at_least("strategy.clients_per_evaluation", self.clients_per_evaluation, 0)
        if self.late not in LATE_RULES:
            raise ConfigError(f"strategy.late is {self.late!r}, expected one of: {', '.join(LATE_RULES)}")
        _not_negative("strategy.staleness", self.staleness)
        if self.nonfinite not in (None, *NONFINITE_RULES):
            expected = ", ".join(NONFINITE_RULES)
            raise ConfigError(f"strategy.nonfinite is {self.nonfinite!r}, expected null or one of: {expected}")


@dataclass
class AppConfig:
    """A whole experiment.

    Attributes:
        task: Data.
        model: Model.
        train: Local training.
        strategy: Sampling and aggregation.
        codec: Delivery codec.
        uplink: Codec of the clients' updates.
        roles: What tensors are for, by patterns of their names: `weight`, `statistic`, `buffer` or `private`;
            the first that fits decides. A list, so that an override replaces it whole: order matters.
        num_rounds: Rounds in all.
        num_clients: Clients to wait for, one a partition; null for as many as the federation has.
        seed: Decides data, partition, initial weights, sampling and training.
        store: Directory of a shared version store; null for one of the run's own.
        model_name: Name the versions are published under; null for `<task>-<model>`.
        resume: Go on from the last version of a model name that exists.
        keyframe_every: Versions between full copies in the store's history.
        timeout: Seconds to wait for the replies of a phase.
        wait_seconds: Seconds to wait for the clients before the first round.
        engine: What `flserve run` runs the clients in: `simulation` (Flower's engine) or `inprocess`, which needs
            no start-up and suits small jobs; `flwr run` has an engine of its own.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    uplink: CodecConfig = field(default_factory=CodecConfig)
    roles: list[dict[str, str]] = field(default_factory=list)
    num_rounds: int = 10
    num_clients: int | None = None
    seed: int = 42
    store: str | None = None
    model_name: str | None = None
    resume: bool = False
    keyframe_every: int = 10
    timeout: float = 600.0
    wait_seconds: float = 300.0
    engine: str = "simulation"

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        _at_least("num_rounds", self.num_rounds, 0)
        if self.num_rounds > MAX_ROUNDS:
            raise ConfigError(f"num_rounds is {self.num_rounds}, at most {MAX_ROUNDS} are allowed")
        if self.num_clients is not None:
            _at_least("num_clients", self.num_clients, 1)
        _at_least("keyframe_every", self.keyframe_every, 1)
        _at_least("seed", self.seed, 0)
        _positive("timeout", self.timeout)
        _positive("wait_seconds", self.wait_seconds)
        if self.engine not in ENGINES:
            raise ConfigError(f"engine is {self.engine!r}, expected one of: {', '.join(ENGINES)}")
        self._check_names()

    def _check_names(self) -> None:
        # Here, because clients compose no job: for them loading the catalog takes longer than a small round.
        from flserve_app.store.names import check_name

        if self.model_name:
            from flserve_app.store.names import check_name  # with it comes the catalog's SQL, which few need here

            try:
                check_name("model_name", self.model_name)
            except StoreError as error:
                raise ConfigError(str(error)) from error
        if self.store is not None and not is_plain(self.store, MOST_PATH_CHARACTERS):
            raise ConfigError(f"store is {plain(self.store)!r}, expected a path of printable characters")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} is {value}, expected at least {least}")


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} is {value}, expected a number of 0 or more")


def _positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} is {value}, expected a number above 0")
