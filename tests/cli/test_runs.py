import fcntl
import json
import os

import pytest

from flserve_app.compose.folder import RunFolder
from flserve_app.strategy import RoundRow
from tests.cli.test_history import flserve, rows_of

CONFIG = {"resume": False, "model_name": None, "store": None, "task": {"name": "t"}, "model": {"name": "m"}, "seed": 1}


def row(number, **fields):
    sent = {"bytes_down": 10, "bytes_up": 20, "bytes_down_full": 100, "bytes_up_full": 100}
    return RoundRow(round=number, version=number, digest="d", **{**sent, **fields})


def made(path, rows, summary=None):
    folder = RunFolder(path)
    with folder.admitted(CONFIG):
        for each in rows:
            folder.append(each)
    if summary is not None:
        folder.write_summary({"model_name": "t-m", "rounds": rows[-1].round, **summary})
    return folder.path


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path))
    return tmp_path / "outputs"


def test_runs_are_listed_with_state_accuracy_and_bytes(place):
    made(place / "a", [row(0), row(1, accuracy=0.5)], {})
    made(place / "b", [row(0), row(1, metrics={"client_accuracy": 0.25})])
    os.utime(place / "a" / "summary.json", (1, 1))
    os.utime(place / "a" / "history.jsonl", (1, 1))
    found = json.loads(flserve("runs", "--json").stdout)
    assert [(run["folder"], run["state"]) for run in found] == [
        (str(place / "a"), "finished"),
        (str(place / "b"), "unfinished"),
    ]
    assert [(run["accuracy"], run["bytes"], run["full"], run["rounds"]) for run in found] == [
        (0.5, 60, 400, 1),
        (0.25, 60, 400, 1),
    ]
    rows = rows_of(flserve("runs").stdout)
    assert rows[0] == ["2", "runs"]
    assert ["finished", "t-m", "1", "0.5000", "60", "B", "15.0", "%"] in [each[1:9] for each in rows]
    assert ["unfinished", "t-m", "1", "0.2500", "60", "B", "15.0", "%"] in [each[1:9] for each in rows]
    assert "1 older not shown: --limit 2 shows all" in flserve("runs", "--limit", "1").stdout


def test_one_that_was_resumed_and_stopped_is_unfinished_whatever_its_old_summary_says(place):
    made(place / "a", [row(0), row(1)], {"rounds": 0})
    assert json.loads(flserve("runs", "--json").stdout)[0]["state"] == "unfinished"


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="the system does not tell of locks")
def test_one_that_has_its_folder_is_running(place):
    folder = made(place / "a", [row(0)], {})
    with (folder / "history.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert json.loads(flserve("runs", "--json").stdout)[0]["state"] == "running"
    assert json.loads(flserve("runs", "--json").stdout)[0]["state"] == "finished"


@pytest.mark.parametrize(
    "text", ["", "[", "[1]\n", '{"round": "x", "accuracy": [], "metrics": 3, "bytes_up": null}\n', "\xff"]
)
def test_folders_of_others_are_no_failure(place, text):
    folder = made(place / "a", [row(0)])
    (folder / "history.jsonl").write_text(text, encoding="latin-1")
    (folder / "summary.json").write_text(text, encoding="latin-1")
    (folder / "config.yaml").write_text(text, encoding="latin-1")
    (found,) = json.loads(flserve("runs", "--json").stdout)
    assert (found["rounds"], found["accuracy"], found["bytes"], found["model"]) == (None, None, 0, None)
    assert flserve("runs").exit_code == 0


def test_a_folder_can_be_named(place, tmp_path):
    made(tmp_path / "elsewhere" / "x", [row(0)], {})
    done = flserve("runs")
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(f"error: there is no run below {place}")
    assert "1 run\n" in flserve("runs", tmp_path / "elsewhere").stdout.replace(" ", "").replace("1run", "1 run")
