import math

import pytest

from flserve_app.config import AppConfig, StrategyConfig, TrainConfig
from flserve_app.config.schema import MAX_ROUNDS
from flserve_app.errors import ConfigError


@pytest.mark.parametrize(
    ("schema", "values", "message"),
    [
        (AppConfig, {"num_rounds": -1}, "num_rounds is -1, expected at least 0"),
        (AppConfig, {"num_rounds": MAX_ROUNDS + 1}, "num_rounds is 1000001, at most 1000000 are allowed"),
        (AppConfig, {"num_clients": 0}, "num_clients is 0, expected at least 1"),
        (AppConfig, {"keyframe_every": 0}, "keyframe_every is 0, expected at least 1"),
        (AppConfig, {"seed": -1}, "seed is -1, expected at least 0"),
        (AppConfig, {"timeout": 0.0}, "timeout is 0.0, expected a number above 0"),
        (AppConfig, {"wait_seconds": math.inf}, "wait_seconds is inf, expected a number above 0"),
        (TrainConfig, {"epochs": 0}, "train.epochs is 0, expected at least 1"),
        (TrainConfig, {"batch_size": 0}, "train.batch_size is 0, expected at least 1"),
        (TrainConfig, {"lr": math.nan}, "train.lr is nan, expected a number above 0"),
        (TrainConfig, {"lr": -1.0}, "train.lr is -1.0, expected a number above 0"),
        (TrainConfig, {"optimizer": "lbfgs"}, "train.optimizer is 'lbfgs', expected one of: sgd, adam"),
        (TrainConfig, {"momentum": 1.0}, "train.momentum is 1.0, expected a value from 0 to below 1"),
        (TrainConfig, {"momentum": math.nan}, "train.momentum is nan, expected a value from 0 to below 1"),
        (StrategyConfig, {"clients_per_round": 0}, "strategy.clients_per_round is 0, expected at least 1"),
        (StrategyConfig, {"clients_per_evaluation": -1}, "strategy.clients_per_evaluation is -1, expected at least 0"),
        (StrategyConfig, {"nonfinite": "drop"}, "nonfinite is 'drop', expected null or one of: keep, leave_out"),
    ],
)
def test_values_out_of_their_range_are_refused(schema, values, message):
    with pytest.raises(ConfigError, match=message):
        schema(**values)


def test_the_ends_of_the_ranges_are_in_them():
    assert AppConfig(num_rounds=0, seed=0, num_clients=1, keyframe_every=1, timeout=0.001).num_rounds == 0
    assert TrainConfig(epochs=1, batch_size=1, lr=1e-12, momentum=0.0).momentum == 0.0
    assert StrategyConfig(name="fedavg", clients_per_round=1, clients_per_evaluation=0).clients_per_round == 1
