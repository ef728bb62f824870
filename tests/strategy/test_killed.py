"""A server killed with -9 at any point goes on, on resumption, as if nothing had happened: the same digests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flserve_app.client import versioned_mod
from flserve_app.registry import Registry
from tests.fleet import FleetGrid
from tests.strategy.blobs import initial, learner
from tests.strategy.killed import POINTS, ROUND, store_of
from tests.strategy.matrix import CLIENTS, made
from tests.strategy.runs import federate

pytestmark = pytest.mark.slow

ROUNDS = 4


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-m", "tests.strategy.killed", str(folder), *POINTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    ends = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines())
    assert ends == dict.fromkeys(POINTS, str(-signal.SIGKILL))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed") / "s")


def run(store, **options):
    grid = FleetGrid(app=learner([versioned_mod]), size=CLIENTS)
    return federate(store, grid=grid, inner=made("FedAdam"), rounds=ROUNDS, initial=initial(), **options)


@pytest.mark.parametrize("when", POINTS)
def test_a_killed_run_ends_as_an_undisturbed_one(killed, undisturbed, when):
    store = store_of(killed, when)
    with Registry.open(store, create=False) as registry:
        left = registry.versions("model")
        assert [version.round for version in left] in ([0, 1, 2], [0, 1, 2, ROUND])
        assert all(registry.load(version).digest == version.digest for version in left)
    rest = run(store, resume=True)
    expected = {version.round: version.digest for version in undisturbed.registry.versions("model")}
    assert {version.round: version.digest for version in rest.registry.versions("model")} == expected
    assert [row.clients for row in rest.rows[1:]] == [CLIENTS] * (ROUNDS - left[-1].round)
    rest.registry.close()
