"""`flserve bench bytes` from end to end on a tiny task, and what it refuses."""

import json

import pytest

from flserve_app.errors import ConfigError
from flserve_app.experiments import bench_bytes
from flserve_app.experiments.bench_bytes import run
from flserve_app.experiments.byte_settings import SETTINGS
from flserve_app.experiments.kept_runs import RUNS_FILE
from tests.cli.test_history import flserve

TINY = ("task=synthetic", "model=mlp", "num_clients=3", "strategy.clients_per_round=2")
FIELDS = {
    "name",
    "model",
    "rounds",
    "accuracy",
    "accuracy_ci",
    "reached",
    "bytes",
    "bytes_message",
    "fewer",
    "fewer_message",
}


@pytest.mark.slow
def test_every_setting_runs_and_a_second_call_runs_nothing(tmp_path, capsys):
    said = []
    rows = run(tmp_path, rounds=2, seeds=[0], overrides=TINY, note=said.append)
    assert [row["name"] for row in rows] == list(SETTINGS)
    assert len(said) == len(SETTINGS)
    found = {row["name"]: row for row in rows}
    assert all(set(row) >= FIELDS and row["model"] == "mlp" for row in rows)
    assert {row["name"]: row["rounds"] for row in rows} == dict.fromkeys(SETTINGS, 3) | {"full": 2, "lossless": 2}
    assert found["full"]["fewer"] == 1
    assert found["lossless"]["accuracy"] == found["full"]["accuracy"]
    assert found["8-bit"]["fewer_equal"] > 1.5
    assert found["topk"]["fewer_equal"] > found["grid"]["fewer_equal"] > found["lossless"]["fewer_equal"] > 1
    assert all(row["bytes_message"] > row["bytes"] for row in rows)
    assert run(tmp_path, rounds=2, seeds=[0], overrides=TINY, note=said.append) == rows
    assert len(said) == len(SETTINGS)
    bench_bytes.show(rows)
    assert "topk-double" in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_bench_goes_on_where_it_stopped(tmp_path):
    whole = run(tmp_path / "a", settings=["lossless"], rounds=1, seeds=[0, 1], overrides=TINY)
    said = []

    def interrupt(text):
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", settings=["lossless"], rounds=1, seeds=[0, 1], overrides=TINY, note=interrupt)
    assert len((tmp_path / "b" / RUNS_FILE).read_text().splitlines()) == 3
    again = run(tmp_path / "b", settings=["lossless"], rounds=1, seeds=[0, 1], overrides=TINY, note=said.append)
    assert len(said) == 4
    assert [row["accuracy"] for row in again] == [row["accuracy"] for row in whole]
    assert [row["bytes"] for row in again] == [row["bytes"] for row in whole]


@pytest.mark.slow
def test_the_command_prints_json_alone(tmp_path):
    done = flserve(
        "bench", "bytes", "--settings", "full", "--seeds", "0", "--rounds", "1", "--json", "--out", tmp_path, *TINY
    )
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["name"], row["accuracy_ci"]) == ("full", None)
    assert "mlp full seed 0: accuracy" in done.stderr


def test_what_is_unknown_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="setting 'zip' is unknown; known: full, 8-bit"):
        run(tmp_path / "new", settings=["zip"])
    with pytest.raises(ConfigError, match="model 'huge' is unknown; known: small, large"):
        run(tmp_path / "new", models=["huge"])
    for own in ("seed=3", "num_rounds=2", "store=x", "codec=grid"):
        with pytest.raises(ConfigError, match=f"'{own}': the bench decides this itself"):
            run(tmp_path / "new", overrides=[own])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("text", ["x", "1-", "-1", "0-x", "1,2.5"])
def test_seeds_that_are_none_are_refused(tmp_path, text):
    done = flserve("bench", "bytes", "--out", tmp_path, f"--seeds={text}")
    assert done.exit_code == 1
    assert "--seeds is" in done.stderr
    assert "expected numbers as in 0,3 or 0-9" in done.stderr
