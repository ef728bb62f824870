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

FEDBN = ("model=resnet", "model.arguments.width=4", "roles=[{*norm*: private}]", "train.epochs=1")
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
def fedbn(tmp_path_factory):
    """A run of a residual network whose clients keep their norm layers, and its fleet."""
    folder = tmp_path_factory.mktemp("fedbn")
    settings = (*FEDBN, "num_clients=3", "num_rounds=2", "strategy.clients_per_evaluation=3")
    grid = FleetGrid(app=client_app.app, size=3, node_config={"cache-dir": str(folder / "cache")})
    rows = []
    summary = run_job(grid, load(settings), folder / "run", rows.append)
    return folder, summary, rows, grid


def private(grid, number):
    return read_private(Held(grid.contexts[grid.node_id(number)]).private("digits-resnet"))[1].values


def test_norm_layers_are_the_clients_own(fedbn):
    folder, summary, rows, grid = fedbn
    with Registry.open(folder / "run" / "store") as registry:
        names = set(registry.load(summary["final_digest"]))
    own = [private(grid, number) for number in range(3)]
    assert all("norm" in name for name in own[0])
    assert names
    assert not any("norm" in name for name in names)
    assert not np.array_equal(own[0]["norm.running_mean"], own[1]["norm.running_mean"])
    assert not np.array_equal(own[0]["blocks.0.norm1.weight"], own[1]["blocks.0.norm1.weight"])
    assert rows[1].plans["recipe"] == 3


def test_its_clients_evaluate_it_and_the_server_does_not(fedbn):
    _, summary, rows, _ = fedbn
    assert [row.accuracy for row in rows] == [None] * 3
    assert summary["final_accuracy"] is None
    assert summary["final_client_accuracy"] == rows[-1].metrics["client_accuracy"] > 0


def test_a_client_predicts_with_its_own_norm_layers(fedbn):
    _, _, _, grid = fedbn
    app = load(FEDBN).app
    spec, model = task_spec(app, 3), model_of(app)
    told = ClientSettings(spec=spec, model=model, epochs=1, batch_size=32, lr=0.05, momentum=0.9).to_json()
    inputs = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    replies = [query(grid, number, [inputs], {KEY: told}) for number in range(2)]
    outputs = [reply.content["outputs"]["outputs"].numpy() for reply in replies]
    assert outputs[0].shape == (4, 10)
    assert not np.array_equal(*outputs)


@pytest.mark.slow
def test_the_digest_is_that_of_any_other_run_of_it(fedbn, tmp_path):
    _, summary, _, _ = fedbn
    settings = (*FEDBN, "num_clients=3", "num_rounds=2", "strategy.clients_per_evaluation=3")
    again = run_job(FleetGrid(app=client_app.app, size=3), load(settings), tmp_path / "run", lambda row: None)
    assert again["final_digest"] == summary["final_digest"]


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
def test_fedbn_learns(tmp_path):
    """Both ways, exact and rounded: clients with little and uneven data get to nine in ten on what they held out."""
    for name, codecs in {"exact": [], "rounded": ["codec=grid", "uplink=grid"]}.items():
        grid = FleetGrid(app=client_app.app, size=10)
        summary = run_job(grid, load(["experiment=fedbn", *codecs]), tmp_path / name, lambda row: None)
        assert summary["final_client_accuracy"] > 0.9
        assert summary["failures"] == 0
