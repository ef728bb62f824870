import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import typer
from sqlalchemy import event
from typer.testing import CliRunner

from flserve_app.artifact import Artifact
from flserve_app.artifact.exchange import from_npz, from_safetensors
from flserve_app.cli import app, history
from flserve_app.cli.choice import choose_model, newest_store
from flserve_app.errors import NotFound
from flserve_app.registry import Registry
from tests.registry.samples import drifting

BRAIN = Artifact({"w": np.array([0x3F80, 0x7FC1], np.uint16), "n": np.array(3)}, dtypes={"w": "bfloat16"})


def flserve(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows_of(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines() if line.strip()]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A working directory with one run: v0 to v2 drift, v3 is a rollback to v1."""
    monkeypatch.chdir(tmp_path)
    artifacts = drifting(3)
    with Registry.open(tmp_path / "outputs" / "run" / "store") as registry:
        for number, artifact in enumerate([*artifacts, artifacts[1]]):
            registry.publish(
                "digits", artifact, parent=number - 1 if number else None, round=number, codec="lossless-small"
            )
        registry.add_metrics("digits", 1, {"accuracy": 0.875, "loss": 0.3125})
        registry.add_metrics("digits", 2, {"client_accuracy": 0.625, "loss": math.nan})
        registry.move_label("digits", "stable", 1, why="best")
    return tmp_path / "outputs"


def test_log_shows_a_row_a_version(outputs):
    done = flserve("log")
    assert done.exit_code == 0
    assert done.stderr == "store: outputs/run/store\n"
    rows = {row[0]: row for row in rows_of(done.stdout)}
    digest = drifting(2)[1].digest[:12]
    assert rows["v1"][:5] == ["v1", "1", "v0", digest, "lossless-small"]
    assert rows["v1"][6:9] == ["0.875", "0.3125", "stable"]
    assert rows["v2"][6:8] == ["0.625", "nan"]
    assert rows["v3"][3:7] == [digest, "lossless-small", "0", "latest"]


@pytest.mark.parametrize(("columns", "gone"), [(120, []), (90, ["created"]), (80, ["created", "parent"])])
def test_a_narrow_terminal_gets_the_columns_that_matter_most(outputs, monkeypatch, columns, gone):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    shown = typer.unstyle(flserve("log").stdout)
    assert max(map(len, shown.splitlines())) <= columns
    rows = rows_of(shown)
    assert {"created", "parent", "labels", "codec"} - set(rows[1]) == set(gone)
    assert len(rows) == 7


def test_log_as_json_is_json(outputs):
    rows = json.loads(flserve("log", "--json").stdout)
    assert [row["version"] for row in rows] == ["v0", "v1", "v2", "v3"]
    assert [row["labels"] for row in rows] == [[], ["stable"], [], ["latest"]]
    assert rows[2]["metrics"] == {"client_accuracy": 0.625, "loss": None}
    assert rows[0]["parent"] is None
    assert rows[3]["stored_bytes"] == 0
    assert rows[0]["artifact_bytes"] == 8008
    assert rows[1]["digest"] == rows[3]["digest"] == drifting(2)[1].digest


def test_log_shows_the_newest_and_says_how_many_more_there_are(outputs):
    done = flserve("log", "--limit", "2")
    rows = rows_of(done.stdout)
    assert rows[0] == ["digits:", "4", "versions"]
    assert [row[0] for row in rows if row[0].startswith("v") and row[0] != "version"] == ["v2", "v3"]
    assert done.stdout.splitlines()[-1] == "2 older versions not shown: --limit 4 shows all"
    assert "not shown" not in flserve("log", "--limit", "4").stdout
    assert [row["version"] for row in json.loads(flserve("log", "--json", "--limit", "1").stdout)] == ["v3"]
    assert flserve("log", "--limit", "0").exit_code == 2
    assert "not shown" not in flserve("log", "--limit", "9" * 20).stdout


def test_a_table_has_an_end_and_json_has_all(outputs, monkeypatch):
    monkeypatch.setattr(history, "SHOWN", 3)
    assert flserve("log").stdout.splitlines()[-1] == "1 older version not shown: --limit 4 shows all"
    assert len(json.loads(flserve("log", "--json").stdout)) == 4


def test_json_is_what_it_was_when_it_was_made_at_once(outputs):
    shown = flserve("log", "--json").stdout
    assert shown == json.dumps(json.loads(shown), indent=2) + "\n"


def test_ten_thousand_versions_are_logged_in_two_questions(brain):
    """However many there are; the versions are made by SQL, and none has a payload of its own."""
    with closing(sqlite3.connect(brain / "catalog.sqlite")) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) INSERT INTO versions"
            " (model_id, number, digest, stored, parent, round, codec, metrics, created)"
            " SELECT model_id, i, digest, 0, i - 1, i, codec, metrics, created FROM n, (SELECT * FROM versions LIMIT 1)"
        )
        connection.execute("UPDATE labels SET number = 9999")
    with Registry.open(brain) as registry:
        asked = []
        event.listen(registry.database._engine, "begin", asked.append)
        assert len(registry.catalog.history("brain").versions) == 10_000
        assert registry.catalog.history("brain", limit=100).labels == {"latest": 9999}
        assert registry.resolve("brain", "latest").number == 9999
        assert len(asked) == 3
    rows = json.loads(flserve("log", "--store", brain, "--json").stdout)
    assert len(rows) == 10_000
    assert [row["version"] for row in rows if row["labels"]] == ["v9999"]
    assert "9900 older versions not shown" in flserve("log", "--store", brain).stdout


def test_latest_stands_at_one_row_wherever_a_run_publishes(brain):
    """Between any two questions that the command asks, another version is published."""
    with Registry.open(brain) as other:
        numbers = iter(range(1, 50))

        def publish(*_):
            number = next(numbers)
            other.publish("brain", Artifact({"w": np.full(2, number)}), round=number, codec="full")

        def opened(path):
            registry = Registry.open(path, create=False)
            event.listen(registry.database._engine, "commit", publish)
            return registry

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(history, "open_store", opened)
            rows = json.loads(flserve("log", "--store", brain, "--json").stdout)
            found = json.loads(flserve("diff", "latest", "latest", "--store", brain, "--json").stdout)
    assert [row["version"] for row in rows if row["labels"]] == [rows[-1]["version"]]
    assert found["from"] == found["to"]


def test_diff_shows_change_and_cost(outputs):
    done = flserve("diff", "v0", "stable")
    assert done.exit_code == 0
    rows = {row[0]: row for row in rows_of(done.stdout)}
    assert rows["weight"][1:5] == ["float32", "2000", "changed", "100.00%"]
    assert rows["steps"][2:6] == ["scalar", "changed", "100.00%", "1"]
    assert rows["full"][2] == "1.000"
    assert 0.3 < float(rows["lossless"][2]) < 0.8


def test_diff_as_json_is_json(outputs):
    found = json.loads(flserve("diff", "v1", "v3", "--json").stdout)
    assert (found["from"]["version"], found["to"]["version"]) == ("v1", "v3")
    assert [tensor["status"] for tensor in found["tensors"]] == ["same", "same"]
    assert found["payload_bytes"]["lossless"] < 100 < found["payload_bytes"]["full"]


@pytest.fixture
def brain(tmp_path):
    with Registry.open(tmp_path / "store") as registry:
        registry.publish("brain", BRAIN, round=0, codec="lossless")
    return tmp_path / "store"


@pytest.mark.parametrize(("file_format", "read"), [("safetensors", from_safetensors), ("npz", from_npz)])
def test_export_writes_what_can_be_read_back(brain, tmp_path, file_format, read):
    target = tmp_path / "model"
    target.write_bytes(b"old")
    done = flserve("export", "v0", "--format", file_format, "--output", target, "--store", brain)
    assert done.exit_code == 0
    assert f"brain v0 ({BRAIN.digest[:12]})" in done.stdout
    assert read(target.read_bytes()) == BRAIN


def test_export_to_torch_loads_without_pickle(brain, tmp_path):
    torch = pytest.importorskip("torch")
    from flserve_app.task.state import to_artifact

    target = tmp_path / "model.pt"
    assert flserve("export", "latest", "-f", "torch", "-o", target, "--store", brain).exit_code == 0
    state = torch.load(target, weights_only=True)
    assert state["w"].dtype == torch.bfloat16
    assert to_artifact(state) == BRAIN


def test_the_newest_store_is_taken(outputs):
    with Registry.open(outputs / "sweep" / "0" / "store") as registry:
        registry.publish("later", BRAIN, round=0, codec="full")
    for path in (outputs / "run" / "store").iterdir():
        os.utime(path, (1, 1))
    done = flserve("log")
    assert done.stderr == "store: outputs/sweep/0/store\n"
    assert "later: 1 version" in done.stdout


def test_a_run_folder_stands_for_its_store(outputs):
    done = flserve("log", "--store", outputs / "run")
    assert done.exit_code == 0
    assert done.stderr == ""


def test_a_model_is_named_where_there_are_several(brain):
    with Registry.open(brain) as registry:
        registry.publish("other", BRAIN, round=0, codec="full")
    done = flserve("log", "--store", brain)
    assert (done.exit_code, done.stderr) == (1, "error: models in the store: brain, other; name one with --model\n")
    assert "other: 1 version" in flserve("log", "--store", brain, "--model", "other").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["log", "--store", "nowhere"], "there is no store at "),
        (["log", "--model", "x"], "models in the store: digits; there is no 'x'"),
        (["diff", "v0", "v9"], "model 'digits' has no version 'v9'; it has v0 to v3, labels latest (v3), stable (v1)"),
        (["export", "v0", "-f", "npz", "-o", "no/such/folder"], "cannot write no/such/folder"),
        (["export", "candidate", "-f", "npz", "-o", "out"], "has no version 'candidate'"),
    ],
)
def test_what_cannot_be_done_is_one_line(outputs, arguments, message):
    done = flserve(*arguments)
    assert done.exit_code == 1
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if not line.startswith("store: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert not Path("out").exists()


def test_no_store_at_all_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path))
    done = flserve("log")
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: there is no store below {tmp_path}/outputs: name one with --store")


def test_a_damaged_store_is_one_line(outputs):
    for path in (outputs / "run" / "store" / "blobs").glob("*/*"):
        path.write_bytes(b"damaged")
    done = flserve("diff", "v0", "v1")
    assert done.exit_code == 1
    assert "is damaged" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["log", "--nonsense"], ["diff", "v0"], ["export", "v0", "-f", "pickle", "-o", "x"], ["nonsense"]]
)
def test_wrong_usage_exits_with_2(arguments):
    assert flserve(*arguments).exit_code == 2


def test_help_names_the_commands():
    shown = flserve("--help").stdout
    assert all(command in shown for command in ("log", "diff", "export"))


def test_the_command_line_starts_light(outputs):
    script = (
        "import sys\nfrom flserve_app.cli import main\nsys.argv = ['flserve', 'log']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'flwr', 'hydra', 'alembic', 'sklearn', 'datasets'}\n"
        "print('heavy:', *heavy & {name.split('.')[0] for name in sys.modules})"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, cwd=outputs.parent
    )
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_stores_that_come_and_go_are_looked_past(tmp_path):
    """Files beside a catalog go when a run ends; whole stores may go too, and some folders may not be listed."""
    store, end, failed = tmp_path / "1" / "store", threading.Event(), []
    with Registry.open(store) as registry:
        registry.publish("m", Artifact({"w": np.zeros(3)}), round=0, codec="full")

    def come_and_go():
        while not end.is_set():
            with Registry.open(store) as registry:
                registry.latest("m")
            Registry.open(tmp_path / "2" / "store").close()
            shutil.rmtree(tmp_path / "2")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            if newest_store(tmp_path) != store:
                failed.append(1)
    finally:
        end.set()
        thread.join()
    assert failed == []


def test_a_file_that_goes_between_listing_and_looking_is_looked_past(outputs, monkeypatch):
    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: [*iterdir(self), self / "catalog.sqlite-wal"])
    assert newest_store(outputs) == outputs / "run" / "store"


def test_an_empty_store_of_a_failed_run_is_not_taken_for_the_newest(tmp_path):
    full, empty = tmp_path / "1" / "store", tmp_path / "2" / "store"
    with Registry.open(full) as registry:
        registry.publish("m", Artifact({"w": np.zeros(3)}), round=0, codec="full")
    Registry.open(empty).close()
    assert newest_store(tmp_path) == full
    with Registry.open(empty) as registry, pytest.raises(NotFound, match="the store holds no version yet"):
        choose_model(registry, None)
