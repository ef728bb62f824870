"""`flserve bench round` measures both sides on the same job."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.experiments import bench_round, turns
from flserve_app.experiments.round_app import Measured
from flserve_app.experiments.submitted_app import FLOOR_QUERIES
from flserve_app.experiments.turns import PHASES, RoundCost

COST = RoundCost(
    job="small",
    megabytes=0.011,
    plain_seconds=(9.0, 10.0, 80.0),
    versioned_seconds=(7.0, 8.0, 7.5),
    phases=dict.fromkeys(PHASES, 0.25),
)


@pytest.mark.slow
def test_both_sides_are_measured_over_the_same_number_of_rounds():
    (cost,) = bench_round.run(engine="inprocess", rounds=2, turns=1, jobs=("small",)).costs
    assert len(cost.plain_seconds) == len(cost.versioned_seconds) == 2
    assert min(*cost.plain_seconds, *cost.versioned_seconds) > 0
    assert set(cost.phases) == set(PHASES)
    assert cost.phases["train"] <= cost.phases["wait"] <= cost.versioned_seconds[0] + cost.versioned_seconds[1]


def test_medians_are_compared_and_the_floor_stands_beside_them(capsys):
    bench_round.show(Measured(floor_seconds=(6.0, 6.1, 9.0), costs=(COST,)))
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if "10.000" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][2:] == ["3", "10.000", "7.500", "-2500", "0.75"]
    assert "do nothing: 6.100 s (median of 3)" in out


def test_without_a_floor_none_is_shown(capsys):
    bench_round.show(Measured(floor_seconds=(), costs=(COST,)))
    assert "floor" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"engine": "superlinks"}, "engine 'superlinks' is unknown"),
        ({"jobs": ("small", "tiny")}, "job 'tiny' is unknown"),
        ({"codec": "nonsense"}, "nonsense"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_starts(asked, said):
    with pytest.raises(ConfigError, match=said):
        bench_round.run(**{"engine": "superlink", **asked})


def alive(folder, word=""):
    """Return the processes with a word in their command, and a Flower home below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in command and f"FLWR_HOME={folder}/".encode() in (entry / "environ").read_bytes():
                found.append(command)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_on_a_superlink_both_sides_are_measured_and_nothing_is_left():
    measured = bench_round.run(engine="superlink", rounds=1, turns=1, jobs=("small",))
    (cost,) = measured.costs
    assert len(measured.floor_seconds) == FLOOR_QUERIES
    assert len(cost.plain_seconds) == len(cost.versioned_seconds) == 1
    assert cost.versioned_seconds[0] >= cost.phases["wait"] > cost.phases["train"] > 0
    assert alive(tempfile.gettempdir()) == []
    assert list(Path(tempfile.gettempdir()).glob("flserve-bench-*")) == []


@pytest.mark.slow
def test_a_run_that_fails_on_a_superlink_is_an_error_with_its_reason(monkeypatch):
    monkeypatch.setitem(turns.JOBS, "odd", turns.JOBS["small"])  # in this process alone
    with pytest.raises(DeliveryError, match=r"^the run on the SuperLink failed: job 'odd' is unknown"):
        bench_round.run(engine="superlink", rounds=1, turns=1, jobs=("odd",))
    assert alive(tempfile.gettempdir()) == []


@pytest.mark.slow
def test_interrupted_it_ends_what_it_started(tmp_path):
    command = [sys.executable, "-c", "from flserve_app.cli import main; main()", "bench", "round"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "FLWR_HOME": "/nowhere"}
    process = subprocess.Popen([*command, "--engine", "superlink"], env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not alive(tmp_path, "flwr-serverapp"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)  # the bench alone: what it started does not hear of it
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.wait()
    assert alive(tmp_path) == []
    assert list(tmp_path.glob("flserve-bench-*")) == []
