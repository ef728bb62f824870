import json
import os
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flserve_app.errors import DeliveryError, NotFound
from flserve_app.experiments import bench_startup
from flserve_app.experiments.bench_startup import Profile, Trace, read_trace, run, show, split_flserve, split_flwr

TRACE = Trace(composed=110.0, summed_up=123.3, greeting=12.7, rounds=0.5)

# As `flwr run --stream` printed it, from the start of its process: the log comes in batches.
OUTPUT = (
    (0.0, ""),
    (0.84, "Using SuperLink: own (127.0.0.1:60233)"),
    (1.18, "Successfully started run 12571326235061928162"),
    (1.18, "\x1b[92mINFO \x1b[0m:      Starting logstream for run_id `12571326235061928162`"),
    (3.22, "\x1b[92mINFO \x1b[0m:      Starting Flower Simulation"),
    (3.22, "\x1b[92mINFO \x1b[0m:      Installing application dependencies..."),
    (8.79, "\x1b[92mINFO \x1b[0m:      uv sync took 5.2 seconds."),
    (8.79, "\x1b[92mINFO \x1b[0m:      App dependencies installed successfully via uv sync."),
    (10.30, "\x1b[92mINFO \x1b[0m:      flserve: run folder /home/someone/run"),
    (23.44, "\x1b[92mINFO \x1b[0m:      flserve: 2 clients connected"),
    (23.95, "\x1b[92mINFO \x1b[0m:      Strategy execution finished in 0.56s"),
    (26.47, "\x1b[92mINFO \x1b[0m:      "),
    (27.80, ""),
)


def at(start, lines):
    return [(start + when, line) for when, line in lines]


def test_flwr_run_is_split_by_what_it_left_and_printed():
    phases = split_flwr(TRACE, 100.0, at(101.5, OUTPUT))
    assert {name: round(seconds, 2) for name, seconds in phases.items()} == {
        "SuperLink": 1.5,
        "submission": 1.18,
        "dependency sync": 5.2,
        "processes, imports, composition": 2.12,
        "engine start and greeting": 12.7,
        "rounds": 0.5,
        "data, model, store": 0.1,
        "end and log stream": 6.0,
    }
    assert sum(phases.values()) == pytest.approx(101.5 + 27.8 - 100.0)


def test_without_a_sync_its_time_is_nobodys():
    lines = [line for line in at(101.5, OUTPUT) if "uv sync" not in line[1]]
    phases = split_flwr(TRACE, 100.0, lines)
    assert phases["dependency sync"] == 0
    assert phases["processes, imports, composition"] == pytest.approx(7.32)


def test_a_run_that_was_not_submitted_is_an_error_with_its_last_words():
    lines = [(0.0, ""), (1.0, "\x1b[91mThe SuperLink refused.\x1b[0m"), (2.0, ""), (2.5, "")]
    with pytest.raises(DeliveryError, match=r"did not submit the run: The SuperLink refused\.$"):
        split_flwr(TRACE, 0.0, lines)


def test_flserve_run_is_split_by_what_it_left():
    phases = split_flserve(TRACE, 107.0, 126.0, 2.5)
    assert list(phases) == [
        "imports",
        "composition",
        "engine start and greeting",
        "rounds",
        "data, model, store",
        "end",
    ]
    assert (phases["imports"], phases["composition"], phases["end"]) == pytest.approx((2.5, 0.5, 2.7))
    assert sum(phases.values()) == pytest.approx(19.0)


def test_imports_take_no_more_than_there_was_before_the_run():
    phases = split_flserve(TRACE, 108.0, 126.0, 2.5)
    assert (phases["imports"], phases["composition"]) == (2.0, 0.0)


def write_run(folder):
    (folder / "config.yaml").write_text("seed: 42\n")
    rows = [{"round": number, "seconds": seconds} for number, seconds in enumerate((6.0, 0.25, 0.5))]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text("{}")
    os.utime(folder / "config.yaml", (1000, 1000))
    os.utime(folder / "summary.json", (1008, 1008))


def test_a_runs_folder_tells_when_it_did_what(tmp_path):
    write_run(tmp_path)
    trace = read_trace(tmp_path)
    assert trace == Trace(composed=1000.0, summed_up=1008.0, greeting=6.0, rounds=0.75)
    assert trace.phases() == {"engine start and greeting": 6.0, "rounds": 0.75, "data, model, store": 1.25}


def test_a_run_without_a_summary_did_not_end(tmp_path):
    write_run(tmp_path)
    (tmp_path / "summary.json").unlink()
    with pytest.raises(NotFound, match=r"left no summary\.json"):
        read_trace(tmp_path)


def test_a_folder_that_is_no_project_is_refused(tmp_path):
    with pytest.raises(NotFound, match=r"no pyproject\.toml"):
        run(tmp_path)


def test_profiles_are_shown_whole_on_a_narrow_terminal(monkeypatch):
    out = StringIO()
    monkeypatch.setattr(bench_startup, "report_console", lambda: Console(file=out, width=80))
    show([Profile(name="flserve run engine=simulation", seconds=12.34, phases={"imports": 2.0, "end": 10.34})])
    assert "flserve run engine=simulation: 12.3 s\n" in out.getvalue()
    assert "10.34" in out.getvalue()


@pytest.mark.slow
def test_every_way_to_run_is_profiled():
    profiles = run(Path(__file__).resolve().parents[2])
    assert [profile.name for profile in profiles] == [
        "flserve run engine=inprocess",
        "flserve run engine=simulation",
        "flwr run",
    ]
    for profile in profiles:
        assert all(seconds >= 0 for seconds in profile.phases.values()), profile
        assert profile.seconds == pytest.approx(sum(profile.phases.values()))
    assert profiles[0].seconds < profiles[1].seconds
