import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedAvgM

from flserve_app.codec.ramp import Ramp
from flserve_app.errors import ConfigError
from flserve_app.strategy.inner import Inner
from tests.fleet import FleetGrid, set_identity


def arrays(value):
    return ArrayRecord({"w": Array(np.full(3, value, np.float32))})


def configured(inner, number, record):
    set_identity()
    grid = FleetGrid(lambda _: None, 2)
    return inner.configure_train(number, record, ConfigRecord(), grid)


def inner_of(strategy, **settings):
    return Inner(strategy, 0, "drop", lambda *_: None, **settings)


def momentum():
    return FedAvgM(
        min_train_nodes=2, min_available_nodes=2, fraction_evaluate=0, server_learning_rate=1.0, server_momentum=0.5
    )


def test_a_schedule_changes_a_number_of_the_strategy_with_the_round():
    strategy = momentum()
    inner = inner_of(strategy, schedules={"server_learning_rate": Ramp(4.0, 1.0, 2)})
    seen = []
    for number in (1, 2, 3, 9):
        configured(inner, number, arrays(0))
        seen.append(strategy.server_learning_rate)
    assert seen == [4.0, 2.0, 1.0, 1.0]


def test_a_schedule_reaches_the_strategy_inside_a_wrapper():
    strategy = momentum()
    wrapped = DifferentialPrivacyServerSideFixedClipping(
        strategy, noise_multiplier=0.0, clipping_norm=1.0, num_sampled_clients=2
    )
    configured(inner_of(wrapped, schedules={"server_momentum": Ramp(0.25, 0.25, 0)}), 1, arrays(0))
    assert strategy.server_momentum == 0.25


@pytest.mark.parametrize("name", ["server_learning_rate", "summary", "weighted_by_key", "nothing"])
def test_a_schedule_of_what_is_no_number_is_refused(name):
    with pytest.raises(ConfigError, match=f"FedAvg has no number {name!r}"):
        inner_of(FedAvg(), schedules={name: Ramp(1, 1, 0)})


def test_a_strategy_that_goes_on_from_its_own_result_is_given_what_was_published():
    strategy = momentum()
    inner = inner_of(strategy, follows=True)
    for value in (1, 2):
        configured(inner, value, arrays(value))
        assert strategy.current_arrays["w"].numpy().tolist() == [value] * 3


def test_where_nothing_is_rounded_it_is_left_alone():
    strategy = momentum()
    inner = inner_of(strategy)
    for value in (1, 2):
        configured(inner, value, arrays(value))
        assert strategy.current_arrays["w"].numpy().tolist() == [1] * 3
