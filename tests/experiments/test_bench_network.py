"""`flserve bench network`: what it shows, what it refuses, and the real thing where it is permitted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.experiments import bench_network
from flserve_app.experiments.bench_network import Report, as_json, run, show
from flserve_app.experiments.network import shaped_network
from flserve_app.experiments.network_app import Measured
from flserve_app.experiments.race import Race
from tests.cli.test_history import flserve
from tests.experiments.test_bench_round import alive
from tests.experiments.test_race import side

SMALL = ("model.arguments.hidden=3333",)  # 1 MB

REPORT = Report(
    mbit=20.0,
    nodes=2,
    megabytes=50.0,
    codec="topk",
    uplink="grid",
    strategy="fedavg",
    measured=Measured(
        floor_seconds=(6.0, 6.5, 9.0),
        race=Race(plain=side([0.5, 0.9, 0.9, 0.9], 50.0), versions=side([0.5, 0.9, 0.9, 0.9, 0.9], 8.0)),
    ),
)


def cells(line):
    return [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")]


def test_both_sides_stand_beside_the_floor_and_how_much_faster_one_is(capsys):
    show(REPORT)
    out = capsys.readouterr().out
    lines = {cells(line)[0]: cells(line)[1:] for line in out.splitlines() if "│" in line}
    assert lines["plain FedAvg"] == ["5.0", "50.0", "1 B", "1 B", "1 B", "4 rounds", "156.0"]
    assert lines["topk / grid, fedavg"] == ["5.0", "8.0", "1 B", "1 B", "1 B", "4 rounds", "30.0"]
    assert lines["faster"] == ["", "6.2 x", "", "", "", "", "5.2 x"]
    assert lines["5"] == ["", "", "0.9000", "38.0"]
    assert "reached 0.8950" in out
    assert "do nothing: 6.5 s (median of 3); the model there and back takes a link 40.0 s at least" in out


def test_as_json_it_has_the_figures_and_what_follows_from_them():
    found = json.loads(json.dumps(as_json(REPORT)))
    assert found["measured"]["race"]["plain"]["seconds"] == [1.0, 6.0, 56.0, 106.0, 156.0]
    assert (found["floor"], found["plain_round"], found["versions_round"]) == (6.5, 50.0, 8.0)
    assert (found["faster_round"], found["faster_to_target"]) == (6.25, 156 / 30)
    assert (found["plain_reached"], found["versions_reached"]) == (4, 4)


def test_a_side_that_does_not_get_there_has_no_time(capsys):
    race = Race(plain=REPORT.measured.race.plain, versions=side([0.5] * 8, 8.0))
    report = Report(
        mbit=20.0,
        nodes=2,
        megabytes=50.0,
        codec="topk",
        uplink="topk",
        strategy="fedavg",
        measured=Measured(floor_seconds=(6.0,), race=race),
    )
    assert as_json(report)["faster_to_target"] is None
    show(report)
    assert "not in 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "options", "said"),
    [
        (["codec=nonsense"], {}, "nonsense"),
        (["num_rounds=3"], {}, "the bench decides this itself"),
        (["uplink.arguments.levels=0"], {}, "levels"),
        ([], {"mbit": 0.0}, "Mbit/s, found 0"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(monkeypatch, overrides, options, said):
    monkeypatch.setattr(bench_network, "submit", None)
    with pytest.raises(ConfigError, match=said):
        run([*SMALL, *overrides], **options)


def test_where_it_is_not_permitted_the_command_says_why_in_one_line(tmp_path, monkeypatch):
    for name in ("ip", "tc", "ss"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'mount: Operation not permitted' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    done = flserve("bench", "network", *SMALL)
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: a shaped network needs Linux, root's rights and iproute2: `ip netns add flserve-")
    assert line.endswith("failed: mount: Operation not permitted")


@pytest.fixture
def permitted():
    try:
        with shaped_network(1, 20.0):
            pass
    except DeliveryError as error:
        pytest.skip(str(error))


def namespaces(pid):
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True, timeout=20).stdout
    return [line.split()[0] for line in listing.splitlines() if line.startswith(f"flserve-{pid}-")]


@pytest.mark.slow
@pytest.mark.usefixtures("permitted")
def test_over_slow_links_versions_save_what_they_do_not_send_and_nothing_is_left():
    report = run(SMALL, mbit=1.0, nodes=2, rounds=2)  # 1 MB takes 8 s each way
    race = report.measured.race
    assert len(race.plain.curve.accuracy) == 2
    assert len(race.versions.curve.accuracy) == 4
    assert race.plain.usual > 16
    assert race.versions.usual < race.plain.usual - 8
    # The links carried what was counted, and what TCP, HTTP and polling put around it.
    for each in (race.plain, race.versions):
        assert each.curve.message[-1] < each.carried[-1] < 1.3 * each.curve.message[-1] + 1_000_000
    # The first contact is a recipe: the model is never sent.
    assert race.versions.curve.payload[-1] < 1e6 * report.megabytes
    assert namespaces(os.getpid()) == []
    assert alive(tempfile.gettempdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("permitted")
def test_interrupted_it_removes_its_namespaces_and_ends_what_it_started(tmp_path):
    command = [sys.executable, "-c", "from flserve_app.cli import main; main()", "bench", "network", *SMALL]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "FLWR_HOME": "/nowhere"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while not alive(tmp_path, "flwr-serverapp"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(namespaces(process.pid)) == 3
        os.kill(process.pid, signal.SIGINT)  # the bench alone: what it started does not hear of it
        assert process.wait(90) != 0
    finally:
        process.kill()
        process.wait()
    assert namespaces(process.pid) == []
    assert alive(tmp_path) == []
    assert list(Path(tmp_path).glob("flserve-bench-*")) == []
