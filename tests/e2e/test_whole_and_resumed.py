"""Runs killed with -9 and resumed end in the digest of one that was not: with either engine, and on SuperNodes.

The table of all codecs, uplinks and roles is in `tests/strategy/test_whole_and_resumed.py`; here are real
processes, for settings whose clients carry something on. The whole run is made in this process: it ends alike
everywhere.
"""

import json
import os
import signal
import subprocess

import pytest

from flserve_app import client_app
from flserve_app.compose.job import run_job
from flserve_app.config import load
from tests.e2e.flower import BIN, PROJECT, Flower, environment, wait_for
from tests.fleet import FleetGrid

pytestmark = pytest.mark.slow

TINY = ["task=synthetic", "task.n=40", "num_clients=2", "train.epochs=1"]
PRIVATE = ["roles=[{*bias: private}]"]
SETTINGS = {
    "grid": ["codec=grid", "uplink=grid"],
    "topk, private": ["codec=topk", "uplink=topk", *PRIVATE],
}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def whole(tmp_path, settings, rounds):
    grid = FleetGrid(app=client_app.app, size=2)
    composed = load([*TINY, *settings, f"num_rounds={rounds}"])
    return run_job(grid, composed, tmp_path / "whole", lambda row: None)["final_digest"]


def rows_in(folder):
    try:
        return len((folder / "history.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def ended(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return summary["final_digest"], summary["failures"], summary["resumed_from"] is not None


@pytest.mark.parametrize(
    ("engine", "settings"), [("inprocess", "grid"), ("inprocess", "topk, private"), ("simulation", "topk, private")]
)
def test_a_simulation_that_was_killed(tmp_path, engine, settings):
    rounds = 60 if engine == "inprocess" else 40
    job = [*TINY, *SETTINGS[settings], f"num_rounds={rounds}", f"engine={engine}"]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen(
            [str(BIN / "flserve"), "run", *job, "hydra.run.dir=killed"], stdout=log, stderr=log, env=environment()
        )
    try:
        wait_for(lambda: rows_in(tmp_path / "killed") >= 4 or run.poll() is not None, 120, "four rows")
        assert run.poll() is None, (tmp_path / "log").read_text()
    finally:
        run.kill()
        run.wait(30)
    assert not (tmp_path / "killed" / "summary.json").exists(), "it was killed too late to tell"
    again = ["flserve", "run", "--resume", "killed", "hydra.run.dir=resumed"]
    subprocess.run([str(BIN / again[0]), *again[1:]], check=True, capture_output=True, timeout=200, env=environment())
    assert ended(tmp_path / "resumed") == (whole(tmp_path, SETTINGS[settings], rounds), 0, True)


def test_supernodes_whose_server_was_killed(tmp_path):
    rounds = 3
    with Flower(tmp_path / "flower", simulation=False) as flower:
        for number in range(2):
            flower.start_node(number, 2, cache=tmp_path / f"cache-{number}")

        def config(name, settings, **also):
            words = [*TINY, *settings, f"num_rounds={rounds}", f"store={tmp_path / 'store'}", f"model_name={name}"]
            words += [f"{key}={value}" for key, value in also.items()]
            return 'overrides="' + " ".join(f"'{word}'" for word in words) + '"'

        for name, settings in SETTINGS.items():
            model = name.replace(", ", "-")
            killed, resumed = flower.folder / f"{model}-killed", flower.folder / f"{model}-resumed"
            arguments = ["run", str(PROJECT), "test", "--run-config"]
            flower.flwr(*arguments, config(model, settings, **{"hydra.run.dir": killed.name}), timeout=120)
            wait_for(lambda folder=killed: rows_in(folder) >= 2, 90, "a round")
            for server in flower.processes_of("flwr-serverapp"):
                os.kill(server, signal.SIGKILL)
            wait_for(lambda: not flower.processes_of("flwr-serverapp"), 30, "the end of the server")
            assert not (killed / "summary.json").exists(), "it was killed too late to tell"
            flower.run(
                "--run-config",
                config(model, settings, **{"hydra.run.dir": resumed.name, "resume": "true"}),
                timeout=120,
            )
            assert ended(resumed) == (whole(tmp_path / model, settings, rounds), 0, True), name
