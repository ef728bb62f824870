"""Runs as processes: many at once, killed, told to stop; none steers or falsifies another."""

import json
import os
import re
import signal
import subprocess
import time

import pytest

from flserve_app.registry import Registry
from tests.e2e.command import flserve
from tests.e2e.flower import BIN, environment

pytestmark = pytest.mark.slow

TINY = ("engine=inprocess", "task=synthetic", "model=mlp", "task.n=20", "task.dim=4", "num_clients=2")
LONG = (*TINY, "task.n=4000", "num_rounds=1000", "train.epochs=20")


def started(folder, *arguments):
    return subprocess.Popen(
        [str(BIN / "flserve"), "run", *arguments],
        cwd=folder,
        env=environment(FLWR_HOME=str(folder / "flwr-home")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(runs):
    return [(*run.communicate(timeout=300), run.returncode) for run in runs]


def rows_of(folder):
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_rows(run, folder, count):
    deadline = time.monotonic() + 120
    while len(rows_of(folder)) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_jobs_of_an_array_have_folders_of_their_own(tmp_path):
    pattern = "hydra.run.dir='out/${now:%Y}'"  # the same for all, as the second is for jobs that begin at once
    done = ended([started(tmp_path, *TINY, "num_rounds=1", f"seed={seed}", pattern) for seed in range(4)])
    assert [code for _, _, code in done] == [0] * 4, done
    seeds = set()
    for folder in (tmp_path / "out").iterdir():
        seeds.add(json.loads((folder / "summary.json").read_text())["seed"])
        assert [row["round"] for row in rows_of(folder)] == [0, 1]
        assert (
            f"seed: {json.loads((folder / 'summary.json').read_text())['seed']}\n"
            in (folder / "config.yaml").read_text()
        )
        with Registry.open(folder / "store", create=False) as registry:
            assert len(registry.versions("synthetic-mlp")) == 2
    assert seeds == {0, 1, 2, 3}


def test_sweeps_at_once_have_folders_of_their_own(tmp_path):
    pattern = "hydra.sweep.dir='out/${now:%Y}'"
    done = ended([started(tmp_path, "-m", *TINY, "num_rounds=0", "seed=1,2", pattern) for _ in range(2)])
    assert [code for _, _, code in done] == [0, 0], done
    assert all(err == "" for _, err, _ in done)
    assert sorted(len(list(sweep.glob("*/summary.json"))) for sweep in (tmp_path / "out").iterdir()) == [2, 2]


@pytest.mark.parametrize("names", ["one", "each"])
def test_of_runs_that_share_a_store_one_has_a_name(tmp_path, names):
    runs = [
        started(tmp_path, *TINY, "num_rounds=2", "store=s", f"model_name={'m' if names == 'one' else f'm{number}'}")
        for number in range(6)
    ]
    done = ended(runs)
    lost = [err for _, err, code in done if code == 1]
    assert len(lost) == (5 if names == "one" else 0), done
    assert all(len(err.splitlines()) == 1 and "choose another model_name" in err for err in lost)
    with Registry.open(tmp_path / "s", create=False) as registry:
        for model in registry.models():
            assert [version.parent for version in registry.versions(model)] == [None, 0, 1]
        assert len(registry.models()) == len(registry.runs()) == (1 if names == "one" else 6)


def test_a_run_that_was_killed_is_resumed_at_once_and_known_to_have_been(tmp_path):
    run = started(tmp_path, *LONG, "hydra.run.dir=r")
    wait_for_rows(run, tmp_path / "r", 3)
    refused = flserve(tmp_path, "run", *LONG, "hydra.run.dir=r", "resume=true")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "is being trained by run" in refused.stderr
    run.kill()
    run.communicate()
    begun = time.monotonic()
    last = rows_of(tmp_path / "r")[-1]["round"]
    rest = flserve(tmp_path, "run", *LONG, "hydra.run.dir=r", "resume=true", f"num_rounds={last + 1}")
    assert rest.returncode == 0, rest.stderr
    assert time.monotonic() - begun < 60
    with Registry.open(tmp_path / "r/store", create=False) as registry:
        assert [entry.state for entry in registry.runs()] == ["interrupted", "finished"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("engine", ["inprocess", "simulation"])
def test_a_run_that_is_told_to_stop_is_marked_and_ends_within_seconds(tmp_path, engine, number, code):
    run = started(tmp_path, *LONG, f"engine={engine}", "hydra.run.dir=r")
    wait_for_rows(run, tmp_path / "r", 2)
    begun = time.monotonic()
    os.kill(run.pid, number)
    _, err = run.communicate(timeout=60)
    assert time.monotonic() - begun < 30
    (said,) = err.splitlines()
    stopped = rf"error: stopped by {signal.Signals(number).name} at v\d+; `flserve run --resume {tmp_path}/r` goes on"
    assert (run.returncode, bool(re.fullmatch(stopped, said))) == (code, True), said
    rows = rows_of(tmp_path / "r")
    assert not list((tmp_path / "r").rglob(".tmp*"))
    with Registry.open(tmp_path / "r/store", create=False) as registry:
        (entry,) = registry.runs()
        assert (entry.state, entry.finished is not None) == ("interrupted", True)
        assert len(registry.versions("synthetic-mlp")) >= len(rows)
        registry.leases.check_free("synthetic-mlp")


def test_paths_that_cannot_be_are_one_line(tmp_path):
    long = "d" * 300
    for overrides in (
        [f"store={tmp_path}/{long}", "hydra.run.dir=r"],
        [f"hydra.run.dir={long}"],
        ["store='~nobody9/x'"],
    ):
        done = flserve(tmp_path, "run", *TINY, "num_rounds=1", *overrides)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert done.stderr.startswith("error: ")
