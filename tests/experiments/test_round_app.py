"""The app that `flserve bench round` submits, on the in-process engine."""

import tomllib

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.errors import DeliveryError, NotFound
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.experiments.round_app import measured_of, serve, write_app
from flserve_app.experiments.submitted_app import FLOOR_QUERIES, read_result
from flserve_app.experiments.turns import CLIENTS


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / 'an "app"'
    write_app(folder, jobs=("small",), rounds=1, turns=2, codec="lossless")
    return folder


def context_of(folder):
    config = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)


def app_of(folder, module):
    names = {}
    exec((folder / f"{module}.py").read_text(), names)
    return names["app"]


def test_what_it_is_to_measure_comes_back_from_its_project(project):
    assert context_of(project).run_config == {
        "jobs": "small",
        "rounds": 1,
        "turns": 2,
        "codec": "lossless",
        "folder": str(project),
    }


@pytest.mark.slow
def test_it_measures_the_floor_and_every_job_and_writes_them_down(project):
    with InProcessGrid(app_of(project, "flserve_bench_client"), CLIENTS) as grid:
        app_of(project, "flserve_bench_server")(grid, context_of(project))
    measured = measured_of(read_result(project))
    assert len(measured.floor_seconds) == FLOOR_QUERIES
    (cost,) = measured.costs
    assert (cost.job, len(cost.plain_seconds), len(cost.versioned_seconds)) == ("small", 2, 2)
    assert cost.versioned >= cost.phases["train"] > 0
    assert sorted(path.name for path in project.iterdir()) == [
        "README.md",
        "flserve_bench_client.py",
        "flserve_bench_server.py",
        "pyproject.toml",
        "result.json",
    ]


def test_what_was_not_measured_is_said(project):
    with pytest.raises(NotFound, match=r"left no result\.json"):
        read_result(project)


def test_a_floor_with_errors_in_it_is_none(project):
    app = ClientApp()

    @app.query("nothing")
    def nothing(message, context):
        if context.node_config["partition-id"] == 1:
            raise RuntimeError("broken")
        return Message(RecordDict(), reply_to=message)

    with InProcessGrid(app, CLIENTS) as grid, pytest.raises(DeliveryError, match=r"4 answered: .*broken"):
        serve(grid, context_of(project))
    with pytest.raises(DeliveryError, match=r"^the run on the SuperLink failed: 4 SuperNodes .*broken"):
        read_result(project)
