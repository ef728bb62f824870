"""A run that was killed or stopped and resumed ends as one that was not: every codec, uplink and role, by default.

The runs are those of a simulation: nodes have a partition and no cache directory, a resumed run has new node ids and
new contexts. What is the clients' own lies beside the store.
"""

import itertools

import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg

from flserve_app.codec import CODECS
from flserve_app.codec.lossy import lossy_of
from tests.fleet import FleetGrid
from tests.strategy.personal import ROLES, SIZE, Books, arrays
from tests.strategy.runs import federate

pytestmark = pytest.mark.slow

ROUNDS, STOP = 5, 3
LOSSY = {"grid": {"multiple": 2.0}, "topk": {"share": 0.1}}
CARRYING = ("lossless", *LOSSY)
IDS = itertools.count(1)


class Killed(BaseException):
    """What ends a run at once, as a kill does: nothing of it is written any more."""


def codec(name):
    return lossy_of(name, LOSSY[name]) if name in LOSSY else name


def new_grid(books=None):
    """A grid of a run of its own: other node ids, empty contexts."""
    number = next(IDS)
    return FleetGrid(app=(books or Books()).app(), size=SIZE, run_id=1000 + number, first_id=104729 + 31 * number)


def run(store, *, rounds=ROUNDS, grid=None, down="lossless", up="lossless", roles=None, inner="FedAvg", **options):
    strategies = {"FedAvg": FedAvg, "FedAdam": FedAdam}
    counts = {"min_train_nodes": SIZE, "min_evaluate_nodes": SIZE, "min_available_nodes": SIZE}
    return federate(
        store,
        grid=grid or new_grid(),
        rounds=rounds,
        codec=codec(down),
        uplink=codec(up),
        roles=roles or {},
        initial=arrays(),
        inner=strategies[inner](**counts),
        **options,
    )


def digests(outcome):
    return [version.digest for version in outcome.registry.versions("model")]


def dying(at):
    """A grid whose clients are killed once `at` of them trained in the round that is not finished."""
    count = itertools.count(1)

    def train(content, partition, number):
        if number == STOP + 1 and next(count) > at:
            raise Killed

    class Dying(Books):
        def app(self, **options):
            return super().app(on_train=train, **options)

    return new_grid(Dying())


def ends_alike(folder, points, **settings):
    whole = digests(run(folder / "whole", **settings))
    run(folder / "stopped", rounds=STOP, **settings)
    assert digests(run(folder / "stopped", resume=True, **settings)) == whole
    for clients in points:
        store = folder / f"killed-{clients}"
        with pytest.raises(Killed):
            run(store, grid=dying(clients), **settings)
        assert digests(run(store, resume=True, **settings)) == whole


@pytest.mark.parametrize(
    ("down", "up", "roles", "inner"),
    [
        ("lossless", "lossless", ROLES, "FedAvg"),
        ("grid", "grid", None, "FedAvg"),
        ("topk", "topk", ROLES, "FedAdam"),
    ],
)
def test_whole_and_resumed_end_in_one_digest(tmp_path, down, up, roles, inner):
    ends_alike(tmp_path, [SIZE - 1], down=down, up=up, roles=roles, inner=inner)


@pytest.mark.slow
@pytest.mark.parametrize("roles", [None, ROLES], ids=["shared", "private"])
@pytest.mark.parametrize(
    ("down", "up", "inner"),
    [
        *((down, up, "FedAvg") for down, up in itertools.product(CODECS, repeat=2)),
        *((down, up, "FedAdam") for down, up in itertools.product(CARRYING, repeat=2)),
    ],
)
def test_every_whole_and_resumed_run_ends_in_one_digest(tmp_path, down, up, roles, inner):
    points = range(SIZE) if {down, up} <= set(CARRYING) else [1]
    ends_alike(tmp_path, points, down=down, up=up, roles=roles, inner=inner)
