"""Flower's examples that cannot be adopted: each is told so in one sentence, before anything ran, with what to do."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.server import LegacyContext, ServerConfig
from flwr.server import strategy as older
from flwr.server.client_manager import SimpleClientManager
from flwr.server.server import Server
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp.strategy import FedAvg, FedXgbBagging, FedXgbCyclic

from flserve_app.errors import ConfigError
from flserve_app.strategy import VersionedStrategy
from tests.fleet import FleetGrid
from tests.strategy.examples.example import listed
from tests.strategy.examples.test_lists import list_client


class Keeping(FedXgbBagging):
    """A checkpoint a round of the trees."""


class Fitting(older.Strategy):
    """As the example of Kaplan and Meier before the Message API."""

    def initialize_parameters(self, client_manager):
        return None

    def configure_fit(self, server_round, parameters, client_manager):
        return []

    def aggregate_fit(self, server_round, results, failures):
        return None, {}

    def configure_evaluate(self, server_round, parameters, client_manager):
        return []

    def aggregate_evaluate(self, server_round, results, failures):
        return None, {}

    def evaluate(self, server_round, parameters):
        return None


class Splitting(older.FedAvg):
    """As the vertical example before the Message API."""


def private():
    return older.DifferentialPrivacyClientSideFixedClipping(older.FedAvg(), 0.1, 1.0, 5)


TREES = r"growing ensemble of trees.*: run it as it is, without VersionedStrategy$"
OLDER = r"a strategy of Flower's older API.*flwr.serverapp.strategy.*upgrade-to-message-api"
REFUSED = {
    "xgboost-quickstart": (FedXgbBagging, TREES),
    "xgboost-comprehensive": (FedXgbCyclic, TREES),
    "a strategy derived from it": (Keeping, TREES),
    "quickstart-mlx": (older.FedAvg, OLDER),
    "federated-kaplan-meier-fitter as it was": (Fitting, OLDER),
    "vertical-fl as it was": (Splitting, OLDER),
    "fl-dp-sa": (private, OLDER),
    "flower-secure-aggregation": (
        lambda: SecAggPlusWorkflow(3, 2),
        r"secure aggregation masks.*: run it as it is, without VersionedStrategy$",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_sentence(tmp_path, name):
    make, words = REFUSED[name]
    with pytest.raises(ConfigError, match=words) as caught:
        VersionedStrategy(make(), store=tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def by_the_older_server(strategy):
    Server(client_manager=SimpleClientManager(), strategy=strategy).fit(1, 1.0)


def by_a_workflow(strategy):
    """As the examples with secure aggregation run a strategy."""
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    grid = FleetGrid(app=list_client([]), size=2)
    DefaultWorkflow()(grid, LegacyContext(context=context, config=ServerConfig(num_rounds=1), strategy=strategy))


@pytest.mark.parametrize("run", [by_the_older_server, by_a_workflow])
def test_under_the_older_server_it_says_how_it_is_started(tmp_path, run):
    strategy = VersionedStrategy(FedAvg(), store=tmp_path / "store")
    with pytest.raises(
        AttributeError, match=r"Flower's older server.* call strategy.start.* in @app.main\(\).*upgrade"
    ):
        run(strategy)


@pytest.mark.parametrize("what", ["configure_train", "configure_evaluate", "aggregate_train", "aggregate_evaluate"])
def test_a_loop_in_main_is_told_to_call_start(tmp_path, what):
    """As the example of an election of features goes: the rounds are in the ServerApp, `start` is never called."""
    strategy, grid = VersionedStrategy(FedAvg(), store=tmp_path / "store"), FleetGrid(app=list_client([]), size=2)
    arguments = (1, listed([np.zeros(3)]), ConfigRecord(), grid) if what.startswith("configure") else (1, [])
    with pytest.raises(ConfigError, match=r"its start was never called: .*strategy.start\(") as caught:
        getattr(strategy, what)(*arguments)
    assert "\n" not in str(caught.value)
