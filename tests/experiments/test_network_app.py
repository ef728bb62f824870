"""The app that `flserve bench network` submits, on the in-process engine."""

import tomllib

import pytest
from flwr.app import Context, RecordDict

from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.experiments.network_app import measured_of, serve, write_app
from flserve_app.experiments.submitted_app import FLOOR_QUERIES, read_result

TINY = ["task=synthetic", "model=mlp", "train.epochs=1", "codec.arguments.share=[0.5,0.1,3]"]


def project_of(folder, overrides):
    write_app(folder, overrides=overrides, nodes=2, rounds=2, most_rounds=3, timeout=60.0)
    return folder


def context_of(folder):
    config = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)


def client_of(folder):
    names = {}
    exec((folder / "flserve_bench_client.py").read_text(), names)
    return names["app"]


def server_of(folder):
    names = {}
    exec((folder / "flserve_bench_server.py").read_text(), names)
    return names["app"]


def test_floor_and_both_sides_come_back_as_they_were_measured(tmp_path):
    project = project_of(tmp_path / 'an "app"', TINY)
    with InProcessGrid(client_of(project), 2) as grid:
        server_of(project)(grid, context_of(project))
    measured = measured_of(read_result(project))
    assert len(measured.floor_seconds) == FLOOR_QUERIES
    plain, versions = measured.race.plain, measured.race.versions
    assert (len(plain.curve.accuracy), len(plain.seconds), len(plain.carried)) == (2, 3, 3)
    assert (len(versions.curve.accuracy), len(versions.seconds), len(versions.carried)) == (3, 4, 4)
    assert 0 < measured.race.target < 1
    assert versions.curve.payload[-1] - versions.curve.payload[0] < plain.curve.payload[0]


def test_why_it_cannot_be_measured_is_said(tmp_path):
    project = project_of(tmp_path / "app", ["codec=nonsense"])
    with InProcessGrid(client_of(project), 2) as grid, pytest.raises(ConfigError):
        serve(grid, context_of(project))
    with pytest.raises(DeliveryError, match=r"^the run on the SuperLink failed: .*nonsense"):
        read_result(project)
