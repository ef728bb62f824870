"""Roles of a configuration: what they become, what they are refused with, and FedBN from end to end."""

import json
import logging

import numpy as np
import pytest

from flserve_app import client_app
from flserve_app.client.held import Held
from flserve_app.client.private import read_private
from flserve_app.compose.client_settings import KEY, ClientSettings
from flserve_app.compose.job import check, run_job
from flserve_app.compose.parts import model_of, task_spec
from flserve_app.compose.roles import check_roles, roles_of
from flserve_app.compose.strategies import inner_strategy
from flserve_app.config import load
from flserve_app.errors import ConfigError
from flserve_app.registry import Registry
from flserve_app.task.models import initial_artifact
from tests.compose.jobs import composed, run
from tests.compose.test_client import query
from tests.fleet import FleetGrid

PERSONAL = ("task=synthetic", "model=mlp", "task.n=20", "roles=[{*bias: private}]", "num_clients=3", "num_rounds=2")
COUNTS = "strategy.dp.clipped_count_stddev=2"


def test_rules_are_in_the_order_in_which_they_stand():
    app = load([r"roles=[{head.*: private, *.bias: statistic},{blocks.\[01\].*: buffer}]"]).app
    assert roles_of(app).rules == (("head.*", "private"), ("*.bias", "statistic"), ("blocks.[01].*", "buffer"))
    assert roles_of(load().app).rules == ()
    assert roles_of(load(["experiment=fedbn"]).app).rules == (("*norm*", "private"),)
    assert roles_of(load(["experiment=fedbn", "roles=[{head.*: private}]"]).app).rules == (("head.*", "private"),)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["roles=[{hidden.*: secret}]"], "'hidden.*' is 'secret', expected one of: weight, statistic, buffer, private"),
        (["roles=[{nrom*: private}]"], "'nrom*' (private) decides nothing: no tensor fits it"),
        (["roles=[{*: private}]"], "which leaves nothing to learn together"),
        (["roles=[{*bias: private},{*bias: weight}]"], "a pattern stands twice"),
        (["roles=[{*bias: private}]", "strategy.dp.kind=local"], "cannot be private under local privacy"),
        (
            ["roles=[{*bias: private}]", "strategy.dp.kind=client_fixed"],
            "ClientSideFixedClipping(FedAvg): its clipping",
        ),
        (
            ["roles=[{*bias: private}]", "strategy.dp.kind=client_adaptive", COUNTS],
            "ClientSideAdaptiveClipping(FedAvg)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path, overrides, said):
    with pytest.raises(ConfigError) as caught:
        check(load(["task=synthetic", "model=mlp", *overrides]).app, 10, tmp_path)
    assert said in str(caught.value)
    assert str(caught.value).startswith("roles: ")


@pytest.mark.parametrize("kind", ["none", "server_fixed"])
def test_clipping_at_the_server_goes_with_private_tensors(kind):
    app = load(["task=synthetic", "model=mlp", "roles=[{*bias: private}]", f"strategy.dp.kind={kind}"]).app
    initial = initial_artifact(model_of(app).build(task_spec(app, 10)))
    check_roles(app, inner_strategy(app.strategy, 10), initial)


@pytest.fixture(scope="module")
def personal(tmp_path_factory):
    """A run of a small model whose clients keep their biases, and its fleet."""
    folder = tmp_path_factory.mktemp("personal")
    grid = FleetGrid(app=client_app.app, size=3, node_config={"cache-dir": str(folder / "cache")})
    rows = []
    config = load([*PERSONAL, "strategy.clients_per_evaluation=3"])
    summary = run_job(grid, config, folder / "run", rows.append)
    return folder, summary, rows, grid


def private(grid, number, model="synthetic-mlp"):
    return read_private(Held(grid.contexts[grid.node_id(number)]).private(model))[1].values


def test_what_is_private_is_the_clients_own(personal):
    folder, summary, rows, grid = personal
    with Registry.open(folder / "run" / "store") as registry:
        names = set(registry.load(summary["final_digest"]))
    own = [private(grid, number) for number in range(3)]
    assert own[0]
    assert all("bias" in name for name in own[0])
    assert names
    assert not any("bias" in name for name in names)
    for name in own[0]:
        assert len({each[name].tobytes() for each in own}) == 3
    assert rows[1].plans["recipe"] == 3


def test_its_clients_evaluate_it_and_the_server_does_not(personal):
    _, summary, rows, _ = personal
    assert [row.accuracy for row in rows] == [None] * 3
    assert summary["final_accuracy"] is None
    assert summary["final_client_accuracy"] == rows[-1].metrics["client_accuracy"] > 0


def test_a_client_predicts_with_its_own_tensors(personal):
    _, _, _, grid = personal
    app = load(PERSONAL).app
    spec, model = task_spec(app, 3), model_of(app)
    told = ClientSettings(spec=spec, model=model, epochs=1, batch_size=32, lr=0.05, momentum=0.9).to_json()
    inputs = np.zeros((4, app.task.dim), np.float32)
    replies = [query(grid, number, [inputs], {KEY: told}) for number in range(2)]
    outputs = [reply.content["outputs"]["outputs"].numpy() for reply in replies]
    assert outputs[0].shape == (4, app.task.classes)
    assert not np.array_equal(*outputs)


def test_the_digest_is_that_of_any_other_run_of_it(personal, tmp_path):
    again = run_job(FleetGrid(app=client_app.app, size=3), load(PERSONAL), tmp_path / "run", lambda row: None)
    assert again["final_digest"] == personal[1]["final_digest"]


def test_who_sees_no_accuracy_is_told_why(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="flwr")
    config = load(["task=synthetic", "model=mlp", "task.n=20", "roles=[{*bias: private}]", "num_rounds=1"])
    run_job(FleetGrid(app=client_app.app, size=2), config, tmp_path / "run", lambda row: None)
    assert "the server evaluates no private tensors; strategy.clients_per_evaluation lets clients do so" in caplog.text


def test_without_roles_all_is_as_it_was(tmp_path):
    summary = run(tmp_path / "run")
    assert summary["final_accuracy"] is not None
    assert summary["final_client_accuracy"] is None
    assert composed().resolved["roles"] == []
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["final_client_accuracy"] is None


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["lossless", "grid"])
def test_fedbn_learns(tmp_path, codec):
    """Exact and rounded both ways: nine in ten of what the clients held out, each with norm layers of its own."""
    grid = FleetGrid(app=client_app.app, size=10, node_config={"cache-dir": str(tmp_path / "cache")})
    config = load(["experiment=fedbn", f"codec={codec}", f"uplink={codec}"])
    summary = run_job(grid, config, tmp_path / "run", lambda row: None)
    assert summary["final_client_accuracy"] > 0.9
    assert summary["failures"] == 0
    own = [private(grid, number, "digits-resnet") for number in range(10)]
    assert all("norm" in name for name in own[0])
    for name in ("norm.running_mean", "blocks.0.norm1.weight"):
        assert len({each[name].tobytes() for each in own}) == 10
