"""One federated run in memory, and what it left."""

from dataclasses import dataclass

from flwr.serverapp.strategy import FedAvg

from flserve_app.registry import Registry
from flserve_app.strategy import RoundRow, VersionedStrategy
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid


@dataclass
class Outcome:
    strategy: VersionedStrategy
    rows: list[RoundRow]
    result: object
    grid: FleetGrid

    @property
    def digest(self):
        return self.strategy.version.digest

    @property
    def registry(self) -> Registry:
        return self.strategy.registry

    def total(self, name):
        return sum(getattr(row, name) for row in self.rows)

    def plans(self):
        counted = {}
        for row in self.rows:
            for kind, count in row.plans.items():
                counted[kind] = counted.get(kind, 0) + count
        return counted


def fedavg(clients=4, train=None, evaluate=0):
    train = clients if train is None else train
    return FedAvg(
        fraction_train=train / clients,
        min_train_nodes=train,
        fraction_evaluate=evaluate / clients,
        min_evaluate_nodes=evaluate,
        min_available_nodes=clients,
    )


def federate(
    store,
    *,
    grid=None,
    inner=None,
    clients=4,
    rounds=3,
    initial=None,
    timeout=60.0,
    evaluate_fn=None,
    on_row=None,
    **options,
):
    """Run a federation over a FleetGrid and return what it left; `on_row` is called between rounds."""
    grid = grid or FleetGrid(app=numpy_app(), size=clients)
    rows = []

    def observe(row):
        rows.append(row)
        if on_row is not None:
            on_row(row)

    options.setdefault("num_clients", grid.size)
    options.setdefault("model_name", "model")
    strategy = VersionedStrategy(inner or fedavg(grid.size), store=store, observer=observe, **options)
    result = strategy.start(
        grid=grid,
        initial_arrays=small_arrays() if initial is None else initial,
        num_rounds=rounds,
        timeout=timeout,
        evaluate_fn=evaluate_fn,
    )
    return Outcome(strategy, rows, result, grid)
