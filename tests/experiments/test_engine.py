"""What a user's own simulated clients may do: what the user asked for, for as long as the run lasts."""

import os

import pytest

from flserve_app.client.policy import SitePolicy, site_policy
from flserve_app.config import load
from flserve_app.experiments.engine import federate
from flserve_app.experiments.run import _allowed
from tests.apps import numpy_app


def test_what_is_allowed_is_allowed_while_the_run_lasts(monkeypatch):
    monkeypatch.setenv("FLSERVE_DATA_FOLDERS", "/before")
    monkeypatch.delenv("FLSERVE_MAX_EPOCHS", raising=False)
    allowed = {"FLSERVE_DATA_FOLDERS": "/before:/data", "FLSERVE_MAX_EPOCHS": "20000"}
    found = []
    federate("inprocess", lambda grid: found.append(site_policy({})), numpy_app(), 1, allowed)
    assert [str(folder) for folder in found[0].data_folders] == ["/before", "/data"]
    assert found[0].max_epochs == 20000
    assert os.environ["FLSERVE_DATA_FOLDERS"] == "/before"
    assert "FLSERVE_MAX_EPOCHS" not in os.environ

    def fails(grid):
        raise KeyError("boom")

    with pytest.raises(KeyError):
        federate("inprocess", fails, numpy_app(), 1, allowed)
    assert os.environ["FLSERVE_DATA_FOLDERS"] == "/before"


def test_a_users_own_simulation_reads_the_folder_that_the_user_names(tmp_path, monkeypatch):
    for name in ("FLSERVE_DATA_FOLDERS", "FLSERVE_MAX_EPOCHS", "FLSERVE_MAX_CLIENTS"):
        monkeypatch.delenv(name, raising=False)
    app = load(["task=hub", f"task.hub.dataset={tmp_path}", "train.epochs=20000"]).app
    policy = site_policy({}, _allowed(app, 12_000))
    assert policy.allows(tmp_path)
    assert (policy.max_epochs, policy.max_clients) == (20_000, 12_000)
    assert "FLSERVE_DATA_FOLDERS" not in _allowed(load(["task=hub", "task.hub.dataset=ylecun/mnist"]).app, 2)
    monkeypatch.setenv("FLSERVE_MAX_EPOCHS", "5")
    assert "FLSERVE_MAX_EPOCHS" not in _allowed(app, 2), "what the user set counts"
    assert site_policy({}, _allowed(app, 2)).max_clients == SitePolicy().max_clients
