"""The matrix: what trains under versions as it does without, what is refused, what is assumed."""

import logging

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.server.workflow import SecAggPlusWorkflow, SecAggWorkflow
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAdam, FedAvg, FedXgbBagging, FedXgbCyclic, Strategy

from flserve_app.client import versioned_mod
from flserve_app.client.integers import floats_only
from flserve_app.client.records import to_artifact, to_record
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.lossy import Lossy
from flserve_app.errors import ConfigError
from flserve_app.strategy import VersionedStrategy, check_lossy, check_strategy
from flserve_app.strategy.compatibility import TABLE
from flserve_app.strategy.restore import restore
from tests.fleet import FleetGrid
from tests.strategy.blobs import accuracy, initial, learner
from tests.strategy.matrix import CLIENTS, SETTINGS, WRAPPERS, local_dp, made
from tests.strategy.runs import federate
from tests.strategy.test_models import by_partition

ROUNDS = 4
BESIDE = ("QFedAvg", *WRAPPERS)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, logger="flwr")


def restored(kind):
    """The strategy as it is, but handing its aggregate on in the model's dtypes, as every version has them."""

    class Restored(kind):
        def configure_train(self, server_round, arrays, config, grid):
            self.model = to_artifact(arrays)
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round, replies):
            arrays, metrics = super().aggregate_train(server_round, replies)
            return to_record(restore(arrays, self.model)), metrics

    return Restored


def alone(strategy, mods=(), counter=True):
    grid = by_partition(FleetGrid(app=learner(mods), size=CLIENTS))
    return strategy.start(grid=grid, initial_arrays=initial(counter), num_rounds=ROUNDS).arrays


def under(path, strategy, mods=(), counter=True, rounds=ROUNDS):
    grid = FleetGrid(app=learner([versioned_mod, *mods]), size=CLIENTS)
    return federate(path, grid=grid, inner=strategy, rounds=rounds, initial=initial(counter))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SETTINGS, *WRAPPERS])
def test_it_trains_bit_for_bit_as_without_versions(tmp_path, name):
    """Equal to Flower alone with aggregates in the model's dtypes; floats alone where integers go beside."""
    counter = name not in BESIDE
    mods = [mod for mod in [WRAPPERS.get(name)] if mod is not None]
    run = under(tmp_path / "s", made(name), mods, counter)
    assert to_artifact(run.result.arrays) == to_artifact(alone(made(name, restored), mods, counter))
    assert accuracy(run.result.arrays) > 0.85 > 2 * accuracy(initial())
    assert [row.clients for row in run.rows[1:]] == [CLIENTS] * ROUNDS


@pytest.mark.parametrize("name", BESIDE)
def test_integers_go_beside_and_change_nothing_of_the_floats(tmp_path, name):
    mods = [floats_only(mod) for mod in [WRAPPERS.get(name)] if mod is not None]
    counted = under(tmp_path / "a", made(name), mods, rounds=2).result.arrays
    without = under(tmp_path / "b", made(name), mods, counter=False, rounds=2).result.arrays
    assert list(counted) == ["w", "seen", "b"]
    for tensor in without:
        assert np.array_equal(counted[tensor].numpy(), without[tensor].numpy())
    weights = np.asarray([20 + 3 * partition for partition in range(CLIENTS)])
    step = weights @ (5 + np.arange(CLIENTS)) / weights.sum()
    assert counted["seen"].numpy() == pytest.approx(2 * step, abs=1)
    assert counted["seen"].numpy().dtype == np.int64


@pytest.mark.slow
def test_a_counter_ruins_privacy_as_flower_does_it_and_not_here(tmp_path):
    """BatchNorm's counter takes the clipping norm for itself: the same clip, with and without versions."""
    name = "DifferentialPrivacyServerSideFixedClipping"
    ours = accuracy(under(tmp_path / "s", made(name, clip=0.5)).result.arrays)
    arrays = alone(made(name, clip=0.5))
    moved = float(np.abs(arrays["w"].numpy()).max())
    assert ours > 0.85
    assert moved < 0.2 * float(np.abs(under(tmp_path / "t", made(name, clip=0.5)).result.arrays["w"].numpy()).max())


def test_local_privacy_trains_too(tmp_path):
    run = under(tmp_path / "s", FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS), [floats_only(local_dp())])
    assert accuracy(run.result.arrays) > 0.85
    assert run.result.arrays["seen"].numpy() > 0


@pytest.mark.parametrize("name", WRAPPERS)
def test_noise_is_drawn_from_numpys_global_state_and_never_seeded(tmp_path, name):
    mods = [floats_only(mod) for mod in [WRAPPERS[name]] if mod is not None]

    def digest(place, seed=None):
        if seed is not None:
            np.random.seed(seed)
        return under(tmp_path / place, made(name, noise=0.3), mods, rounds=1).digest

    assert digest("a") != digest("b")
    assert digest("c", 5) == digest("d", 5)


@pytest.mark.parametrize("kind", [FedXgbBagging, FedXgbCyclic])
def test_tree_ensembles_are_refused(tmp_path, kind):
    with pytest.raises(ConfigError, match=f"{kind.__name__} cannot be combined with versions: .* ensemble of trees"):
        VersionedStrategy(kind(), store=tmp_path)


def test_secure_aggregation_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"SecAggPlusWorkflow cannot be combined .* masks what a client sends"):
        VersionedStrategy(SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2), store=tmp_path)


def lossy_uplinks():
    on, off = Feedback(), Feedback(decay=0)
    return {
        ("topk", True): Lossy(name="topk", feedback=on),
        ("topk", False): Lossy(name="topk", feedback=off),
        ("grid", True): Lossy(name="grid", feedback=on),
        ("grid", False): Lossy(name="grid", feedback=off),
        ("dither", False): Lossy(name="grid", feedback=off, dither=True),
    }


NO_SPARSE = {"FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"}
NO_FEEDBACK = {name for name in WRAPPERS if "ClientSide" in name}


@pytest.mark.parametrize("name", [*SETTINGS, *WRAPPERS])
@pytest.mark.parametrize("kind", lossy_uplinks(), ids=str)
def test_lossy_uplinks_are_refused_where_they_break_a_guarantee(name, kind):
    uplink = lossy_uplinks()[kind]
    said = ""
    if kind[0] == "topk" and name in NO_SPARSE:
        said = f"uplink topk cannot be combined with {name}: it compares replies .*; use uplink=grid"
    elif kind[1] and name in NO_FEEDBACK:
        said = rf"uplink {kind[0]} with error feedback cannot be combined with {name}\(FedAvg\): its clipping has to .*"
    traits = check_strategy(made(name))
    if not said:
        check_lossy(traits, uplink=uplink)
        return
    with pytest.raises(ConfigError, match=said):
        check_lossy(traits, uplink=uplink)


@pytest.mark.parametrize("inside", sorted(NO_SPARSE))
def test_what_is_inside_privacy_is_asked_too(tmp_path, inside):
    wrapped = made("DifferentialPrivacyServerSideFixedClipping", inside=inside)
    with pytest.raises(ConfigError, match=rf"uplink topk cannot be combined with .*\({inside}\): it compares"):
        VersionedStrategy(wrapped, store=tmp_path, uplink=lossy_uplinks()["topk", False])


@pytest.mark.parametrize("kind", lossy_uplinks(), ids=str)
@pytest.mark.parametrize("workflow", [SecAggWorkflow, SecAggPlusWorkflow])
def test_secure_aggregation_is_refused_with_every_uplink(tmp_path, kind, workflow):
    settings = {"reconstruction_threshold": 2} | ({"num_shares": 3} if workflow is SecAggPlusWorkflow else {})
    with pytest.raises(ConfigError, match=f"{workflow.__name__} cannot be combined .* masks what a client sends"):
        VersionedStrategy(workflow(**settings), store=tmp_path, uplink=lossy_uplinks()[kind])


def test_versions_are_not_dithered(tmp_path):
    with pytest.raises(ConfigError, match=r"codec grid cannot be dithered: .*; dither is for the uplink"):
        VersionedStrategy(store=tmp_path / "s", codec=lossy_uplinks()["dither", False])
    assert not (tmp_path / "s").exists()


def test_what_is_refused_is_refused_inside_a_wrapper_and_by_descent():
    class Trees(FedXgbBagging):
        pass

    with pytest.raises(ConfigError, match="Trees cannot be combined"):
        check_strategy(flower.DifferentialPrivacyServerSideFixedClipping(Trees(), 0.0, 1.0, 2))


@pytest.mark.parametrize("strategy", [object(), "fedavg", None])
def test_what_is_no_strategy_is_refused(strategy):
    with pytest.raises(ConfigError, match=r"no strategy of Flower's Message API"):
        check_strategy(strategy)


def test_what_is_assumed_of_a_stranger_is_said(tmp_path, caplog):
    class Mine(FedAdam):
        pass

    class Own(Strategy):
        configure_train = aggregate_train = configure_evaluate = aggregate_evaluate = summary = lambda *_: None

    assert check_strategy(FedAdam()).assumed == ""
    with caplog.at_level("INFO", logger="flwr"):
        VersionedStrategy(Mine(), store=tmp_path)
    assert "flserve: assuming that Mine weighs and combines replies as FedAdam does" in caplog.text
    assert "full ArrayRecords" in check_strategy(Own()).assumed


@pytest.mark.parametrize("name", [*SETTINGS, *WRAPPERS])
def test_late_replies_are_rebased_only_where_they_can_be_weighed(name):
    weighed = ("FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedAdagrad", "FedYogi")
    if name in weighed:
        assert check_strategy(made(name), "rebase").no_rebase == ""
    else:
        with pytest.raises(ConfigError, match=f"late replies cannot be rebased under {name}.*: .*; use late=drop"):
            check_strategy(made(name), "rebase")
    with pytest.raises(ConfigError, match="late is 'never', expected one of: drop, rebase"):
        check_strategy(made(name), "never")


def test_the_table_has_every_strategy_of_flowers():
    abstract = {"Strategy", "Result"}
    theirs = {name for name in flower.__all__ if name not in abstract}
    assert theirs <= set(TABLE)


def test_a_wrappers_name_says_what_is_inside():
    traits = check_strategy(made("DifferentialPrivacyServerSideFixedClipping", inside="FedAdam"))
    assert traits.name == "DifferentialPrivacyServerSideFixedClipping(FedAdam)"
    assert (traits.private, traits.integers_beside) == (True, True)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_round_without_replies_under_privacy_costs_that_round(tmp_path, name):
    """Adaptive clipping divides by the number of replies."""
    grid = FleetGrid(app=learner([versioned_mod, *([WRAPPERS[name]] if WRAPPERS[name] else [])]), size=CLIENTS)
    lost = grid.up.append
    run = federate(
        tmp_path / "s",
        grid=grid,
        inner=made(name),
        rounds=3,
        initial=initial(False),
        on_row=lambda row: lost(lambda message: None) if row.round == 1 else grid.up.clear(),
    )
    assert [row.clients for row in run.rows] == [0, CLIENTS, 0, CLIENTS]
    assert [row.version for row in run.rows] == [0, 1, 1, 2]


def test_an_update_of_nothing_under_privacy_costs_that_reply(tmp_path, caplog):
    """Flower divides by the norm of the update."""

    def same(message):
        if message.has_content() and message.metadata.src_node_id == grid.node_id(3) and "arrays" in message.content:
            message.content["arrays"] = ArrayRecord({name: Array(array.numpy()) for name, array in initial().items()})
        return message

    grid = FleetGrid(app=learner([]), size=CLIENTS, up=[same])
    strategy = made("DifferentialPrivacyServerSideFixedClipping")
    run = federate(tmp_path / "s", grid=grid, inner=strategy, rounds=1, initial=initial())
    assert run.rows[1].clients == CLIENTS - 1
    assert run.rows[1].failures == 1
