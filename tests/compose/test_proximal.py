import json
import math

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedProx

from flserve_app.client.records import to_record
from flserve_app.compose.client import PROXIMAL, TaskClient
from flserve_app.compose.client_settings import KEY, ClientSettings, read_settings
from flserve_app.compose.model import Model
from flserve_app.compose.parts import CentralEvaluation, task_spec
from flserve_app.config import load
from flserve_app.errors import ConfigError
from flserve_app.task import HubSource, TaskSpec
from tests.client.contexts import context
from tests.fleet import FleetGrid


def settings(**values):
    spec = TaskSpec(name="synthetic", seed=3, num_clients=2, n=20, dim=4, classes=3)
    job = {"model": Model(name="mlp", arguments={"hidden": 4}, seed=3), "epochs": 2, "batch_size": 8}
    return ClientSettings(**{"spec": spec, **job, "lr": 0.1, "momentum": 0.0, **values})


def fitted(config=None, **values):
    told = settings(**values)
    arrays = [array.numpy() for array in to_record(CentralEvaluation(told.model, told.spec).initial).values()]
    trained, _, _ = TaskClient(context(**{"partition-id": 0})).fit(arrays, {KEY: told.to_json(), **(config or {})})
    return trained


def test_the_proximal_term_of_the_configuration_is_used():
    assert load(["train.proximal=0.5"]).app.train.proximal == 0.5
    assert not same(fitted(proximal=5.0), fitted())


def test_what_the_strategy_sends_overrules_it():
    assert same(fitted({PROXIMAL: 5.0}), fitted(proximal=5.0))
    assert same(fitted({PROXIMAL: 0}, proximal=5.0), fitted())


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_flowers_fedprox_sends_it_under_the_key_that_is_read():
    grid = FleetGrid(app=None, size=2)
    strategy = FedProx(proximal_mu=0.25)
    (message, *_) = strategy.configure_train(1, ArrayRecord(), ConfigRecord({}), grid)
    assert message.content["config"][PROXIMAL] == 0.25


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan, "0.1", True])
def test_a_term_out_of_its_range_is_refused(value):
    with pytest.raises(ConfigError, match=r"the server sent proximal-mu .*, expected a number of 0 or more"):
        fitted({PROXIMAL: value})


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_configured_term_out_of_its_range_is_refused(value):
    with pytest.raises(ConfigError, match=r"train\.proximal is .*, expected a number of 0 or more"):
        load([f"train.proximal={value}"])


def test_a_hub_source_travels_with_the_settings():
    told = settings(spec=TaskSpec(name="hub", hub=HubSource(dataset="a/b", side=8)))
    assert read_settings({KEY: told.to_json()}) == told


def test_unknown_facts_of_a_source_are_malformed():
    plain = json.loads(settings().to_json())
    plain["task"]["hub"] = {"dataset": "a/b", "folder": "/"}
    with pytest.raises(ConfigError, match="the server's 'flserve-job' is malformed"):
        read_settings({KEY: json.dumps(plain)})


def test_the_configuration_names_a_source():
    app = load(["task=hub", "task.hub.dataset=a/b", "task.hub.channels=3"]).app
    assert task_spec(app, 2).hub == HubSource(dataset="a/b", channels=3)
    assert task_spec(load(["task=digits"]).app, 2).hub is None
