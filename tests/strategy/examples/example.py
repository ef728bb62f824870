"""An app as the examples of Flower are built: what its ServerApp does, its ClientApp, and what a run of it leaves.

`agree` runs it twice over the same fleet: as it is, and with the two lines. What has to agree is all that a user could
look at: arrays, metrics of every round, and the files that the server wrote.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flserve_app.client import versioned_mod
from flserve_app.strategy import RoundRow, VersionedStrategy
from tests.fleet import FleetGrid

NODES = 3
ALL = {"min_train_nodes": NODES, "min_evaluate_nodes": NODES, "min_available_nodes": NODES}

Adopt = Callable[[Strategy], Strategy]


@dataclass(frozen=True)
class Example:
    """An app.

    Attributes:
        server: What its ServerApp does, as (grid, adopt, folder); `adopt` is the line on the server.
        client: Its ClientApp with these mods; `versioned_mod` is the line on the client.
        node_config: Entries of every node's config.
        partitioned: Whether nodes have a partition, as simulated ones do.
    """

    server: Callable[[Grid, Adopt, Path], Result]
    client: Callable[[Sequence], ClientApp]
    node_config: dict = field(default_factory=dict)
    partitioned: bool = True


@dataclass(frozen=True)
class Ended:
    """What a run left."""

    arrays: dict[str, np.ndarray]
    metrics: list[dict]
    files: dict[str, bytes]
    rows: list[RoundRow]


def arrays_of(result: Result) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in (result.arrays or {}).items()}


def metrics_of(result: Result) -> list[dict]:
    """Return the metrics of all rounds: of training, of evaluation, of evaluation on the server."""
    parts = (result.train_metrics_clientapp, result.evaluate_metrics_clientapp, result.evaluate_metrics_serverapp)
    return [{number: dict(record) for number, record in part.items()} for part in parts]


def ended(example: Example, folder: Path, *, adopted: bool, adopt: Adopt | None = None) -> Ended:
    """Run an app: as it is, or with the two lines."""
    written, rows = folder / ("adopted" if adopted else "plain"), []
    written.mkdir(parents=True)
    app = example.client([versioned_mod] if adopted else [])
    grid = FleetGrid(app=app, size=NODES, node_config=example.node_config, partitioned=example.partitioned)
    grid.reply_order = lambda replies: sorted(replies, key=lambda each: order(grid, each.metadata.src_node_id))

    def two_lines(strategy: Strategy) -> Strategy:
        return VersionedStrategy(strategy, store=folder / "store", seed=None, observer=rows.append)

    random.seed(11)  # plain Flower draws nodes from it
    result = example.server(grid, (adopt or two_lines) if adopted else lambda strategy: strategy, written)
    return Ended(arrays_of(result), metrics_of(result), files_of(written), rows)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def order(grid: FleetGrid, node_id: int) -> int:
    """Where a reply stands: flserve's order is that of the identities, whatever came first."""
    return grid.number(node_id) if grid.partitioned else node_id


def agree(example: Example, folder: Path) -> Ended:
    """Check that an app ends as it does without us; returns the adopted run."""
    found = ended(example, folder, adopted=True)
    same(found, ended(example, folder, adopted=False))
    return found


def same(found: Ended, plain: Ended) -> None:
    """Check that an adopted run left what the plain one did, bit for bit."""
    assert list(found.arrays) == list(plain.arrays)
    for name, want in plain.arrays.items():
        got = found.arrays[name]
        assert got.shape == want.shape
        assert np.array_equal(got, want), name
        assert got.dtype == want.dtype or got.dtype.kind == "i", name  # Flower makes floats of BatchNorm's counters
    assert found.metrics == plain.metrics
    assert found.files == plain.files
    assert not any(row.skipped or row.failures for row in found.rows)


def delivered(found: Ended, *kinds: str) -> bool:
    """Whether every delivery was of one of these kinds, and the last round's built on what clients held."""
    assert found.rows[-1].plans, "nothing was delivered"
    return set().union(*(row.plans for row in found.rows)) <= set(kinds)


def listed(tensors: Sequence[np.ndarray]) -> ArrayRecord:
    """Return weights as Keras, JAX and scikit-learn have them: a list, its places as names."""
    return ArrayRecord([np.asarray(each) for each in tensors])


def named(tensors: dict[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in tensors.items()})


def replied(message: Message, arrays: ArrayRecord | None, metrics: dict, **more) -> Message:
    content = {} if arrays is None else {"arrays": arrays}
    return Message(RecordDict({**content, "metrics": MetricRecord(metrics), **more}), reply_to=message)
