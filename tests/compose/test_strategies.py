"""Every strategy of the configuration, with its arguments, its ranges and privacy around it."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from flserve_app.compose.privacy import KEY, private_mod, told
from flserve_app.compose.strategies import ARGUMENTS, CLASSES, inner_strategy
from flserve_app.config import DpConfig, StrategyConfig, conf_dir, load
from flserve_app.errors import ConfigError
from flserve_app.strategy.state import REMEMBERED
from tests.compose.jobs import run
from tests.fleet import set_identity

pytestmark = pytest.mark.slow

DP = "strategy.dp.kind"
SETTINGS = {
    "fedadam": ["+strategy.arguments.eta=0.01"],
    "fedadagrad": ["+strategy.arguments.eta=0.05"],
    "fedyogi": ["+strategy.arguments.eta=0.01"],
    "qfedavg": ["+strategy.arguments.client_learning_rate=0.05"],
}


def test_every_strategy_has_a_file_a_class_and_a_table_of_arguments():
    files = {path.stem for path in conf_dir().glob("strategy/*.yaml")}
    assert files == set(ARGUMENTS) == set(CLASSES)
    assert {kind.__name__ for kind in CLASSES.values()} == {name for name in REMEMBERED if "Privacy" not in name}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_file_makes_its_strategy(name):
    app = load([f"strategy={name}"]).app
    made = inner_strategy(app.strategy, 10)
    assert type(made) is CLASSES[name]
    for argument in ARGUMENTS[name]:
        assert getattr(made, argument) == app.strategy.arguments[argument]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_every_strategy_runs_a_job_and_goes_on(tmp_path, name):
    options = [f"strategy.name={name}", *SETTINGS.get(name, [])]
    whole = run(tmp_path / "whole", *options, rounds=2)
    assert (whole["failures"], whole["versions"]) == (0, 3)
    shared = [*options, f"store={tmp_path / 'shared'}"]
    run(tmp_path / "a", *shared, rounds=1)
    assert run(tmp_path / "b", *shared, "resume=true", rounds=2)["final_digest"] == whole["final_digest"]


@pytest.mark.parametrize("kind", ["server_fixed", "server_adaptive", "client_fixed", "client_adaptive", "local"])
def test_every_kind_of_privacy_runs_a_job(tmp_path, kind):
    options = [f"{DP}={kind}", "strategy.dp.noise_multiplier=0", "strategy.dp.clipping_norm=0.01"]
    clipped = run(tmp_path / "clipped", *options, "strategy.dp.epsilon=1e9")
    assert (clipped["failures"], clipped["versions"]) == (0, 3)
    assert clipped["final_digest"] != run(tmp_path / "open")["final_digest"]


@pytest.mark.parametrize("kind", ["server_fixed", "client_fixed", "local"])
def test_noise_is_not_the_configurations(tmp_path, kind):
    """Two runs of a seed differ: their noise comes from numpy's global state, which no configuration seeds."""
    options = [f"{DP}={kind}", "strategy.dp.noise_multiplier=1", "seed=3"]
    assert run(tmp_path / "a", *options)["final_digest"] != run(tmp_path / "b", *options)["final_digest"]
    state = np.random.get_state()[1].copy()
    run(tmp_path / "c", "seed=3")
    assert np.array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "fedprox", "arguments": {"proximal_mu": -1}}, "proximal_mu is -1, expected a number of at least 0"),
        ({"name": "fedadam", "arguments": {"eta": 0}}, "eta is 0, expected a number above 0"),
        ({"name": "fedadam", "arguments": {"beta_1": 1.0}}, "beta_1 is 1.0, expected a number of at least 0 and below"),
        ({"name": "krum", "arguments": {"num_malicious_nodes": 1.5}}, "is 1.5, expected a whole number of at least 0"),
        ({"name": "fedtrimmedavg", "arguments": {"beta": True}}, "beta is True, expected a number"),
        ({"name": "fedavgm", "arguments": {"server_learning_rate": "big"}}, "is big, expected a number above 0"),
        ({"name": "fedmedian", "arguments": {"q": 1}}, "strategy fedmedian: argument 'q' is unknown; known: none"),
        ({"name": "qfedavg"}, "strategy qfedavg: .*client_learning_rate"),
        (
            {"name": "bulyan", "arguments": {"num_malicious_nodes": 2}},
            "bulyan needs 11 clients a round for 2",
        ),
        ({"name": "krum", "arguments": {"num_malicious_nodes": 5}}, "krum needs 13 clients a round for 5 malicious"),
        ({"name": "fedxgb"}, "strategy 'fedxgb' is unknown; known: fedavg, fedadam"),
        ({"name": "krum", "late": "rebase"}, "late replies cannot be rebased under Krum: it counts every reply as one"),
        (
            {"name": "fedavg", "dp": DpConfig(kind="server_adaptive", noise_multiplier=4.0)},
            r"strategy fedavg: .*increasing strategy\.dp\.clipped_count_stddev or decreasing strategy\.dp\.noise_m",
        ),
    ],
)
def test_what_does_not_go_is_refused_in_one_sentence(fields, message):
    with pytest.raises(ConfigError, match=message) as caught:
        inner_strategy(StrategyConfig(**fields), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "secret"),
        ("noise_multiplier", -0.1),
        ("clipping_norm", 0.0),
        ("clipping_norm", float("nan")),
        ("target_clipped_quantile", 1.5),
        ("clip_norm_lr", 0.0),
        ("clipped_count_stddev", -1.0),
        ("sensitivity", -1.0),
        ("epsilon", 0.0),
        ("delta", 0.0),
        ("delta", 1.0),
    ],
)
def test_settings_of_privacy_have_ranges(field, value):
    with pytest.raises(ConfigError, match=f"strategy.dp.{field} is"):
        DpConfig(**{field: value})


@pytest.mark.parametrize(("late", "staleness"), [("later", 0.5), ("rebase", -1.0), ("rebase", float("inf"))])
def test_the_rule_for_late_replies_has_a_range(late, staleness):
    with pytest.raises(ConfigError, match=r"strategy\.(late|staleness) is"):
        StrategyConfig(name="fedavg", late=late, staleness=staleness)


def test_without_a_number_a_round_takes_all_who_are_there():
    strategy = inner_strategy(StrategyConfig(name="fedavg"), 10)
    assert (strategy.fraction_train, strategy.min_train_nodes, strategy.min_available_nodes) == (1.0, 1, 1)
    fixed = inner_strategy(StrategyConfig(name="fedavg", clients_per_round=4), 10)
    assert (fixed.min_train_nodes, fixed.min_available_nodes) == (4, 4)
    private = inner_strategy(StrategyConfig(name="fedavg", dp=DpConfig(kind="server_fixed")), 10)
    assert isinstance(private, flower.DifferentialPrivacyServerSideFixedClipping)
    assert (private.num_sampled_clients, private.strategy.min_train_nodes) == (10, 10)


def test_a_client_is_told_its_part_and_no_more():
    assert [bool(told(DpConfig(kind=kind))) for kind in ("none", "server_fixed", "client_fixed", "local")] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("kind", ["client_fixed", "client_adaptive", "local"])
def test_a_clients_clipping_leaves_counters_alone(kind):
    dp = DpConfig(kind=kind, clipping_norm=1.0, epsilon=1e9)
    config = ConfigRecord({**told(dp), "clipping_norm": 1.0})
    set_identity()
    content = RecordDict({"arrays": tensors(0.0, 0), "config": config})
    message = identified(Message(content, dst_node_id=1, message_type="train"))

    def trained(given, _):
        records = {"arrays": tensors(5.0, 100), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(records), reply_to=given)

    reply = private_mod(message, None, trained)
    assert reply.content["arrays"]["n"].numpy() == 100
    assert np.linalg.norm(reply.content["arrays"]["w"].numpy()) == pytest.approx(1.0, abs=1e-3)


def tensors(value, counter):
    return ArrayRecord({"w": Array(np.full(4, value, np.float32)), "n": Array(np.asarray(counter))})


def identified(message):
    message.metadata.__dict__["_message_id"] = "m1"
    return message


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "server_fixed"}', '{"kind": "odd"}', '{"more": 1}', "3"])
def test_a_malformed_word_about_privacy_fails_the_client_alone(text):
    set_identity()
    content = RecordDict({"config": ConfigRecord({KEY: text})})
    message = Message(content, dst_node_id=1, message_type="train")
    with pytest.raises(ConfigError, match=r"flserve-privacy|strategy\.dp\.kind"):
        private_mod(message, None, lambda *_: None)
