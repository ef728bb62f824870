import csv
import subprocess
import sys
from pathlib import Path

import pytest

from flserve_app.errors import ConfigError, FlserveError, StoreError
from flserve_app.experiments.sweep import _count, run

PROJECT = Path(__file__).parents[2]
TINY = ["engine=inprocess", "task=synthetic", "task.n=20", "num_clients=2", "num_rounds=1"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_sweep_goes_on_and_names_the_jobs_that_failed(tmp_path, capsys):
    with pytest.raises(FlserveError, match=r"^1 of 3 jobs failed: job 1 \(strategy=krum\): strategy krum needs"):
        run(["-m", *TINY, "strategy=fedavg,krum,fedadam", "hydra.sweep.dir=s"])
    out, err = capsys.readouterr()
    assert "job 1 (3 in all): " in out
    assert err.startswith("job 1 failed: ")
    assert "3 runs, 1 failed" in out
    assert "[HYDRA]" not in out
    rows = list(csv.DictReader((tmp_path / "s" / "sweep.csv").read_text().splitlines()))
    assert [(row["strategy"], row["state"]) for row in rows] == [
        ("fedavg", "finished"),
        ("krum", "failed"),
        ("fedadam", "finished"),
    ]
    assert rows[0]["folder"].startswith(str(tmp_path / "s" / "0-"))


def test_runs_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path / "there"))
    monkeypatch.setenv("FLSERVE_STORE", str(tmp_path / "shared"))
    run([*TINY, "num_rounds=0"])
    (summary,) = (tmp_path / "there" / "outputs").glob("*/*/summary.json")
    assert not (summary.parent / "store").exists()
    assert (tmp_path / "shared" / "FORMAT").is_file()
    assert not (tmp_path / "outputs").exists()


def test_the_folder_of_a_run_names_its_store(tmp_path):
    run([*TINY, "hydra.run.dir=first"])
    run([*TINY, "num_rounds=2", "store=first", "resume=true", "hydra.run.dir=second"])
    assert not (tmp_path / "second" / "store").exists()
    assert (tmp_path / "second" / "summary.json").is_file()


def test_a_run_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^the run folder cannot be made: file: (File exists|Not a directory)$"):
        run([*TINY, "hydra.run.dir=file"])


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["-m", "seed=1,2", "codec=full,grid,topk"], 6),
        (["-m", "seed=range(3)", "task=digits"], 3),
        (["-m", "codec=glob(*)"], 0),
        (["-m", "a b"], 0),
        ([], 1),
    ],
)
def test_jobs_are_counted_where_they_can_be(overrides, count):
    assert _count(overrides) == count


@pytest.mark.parametrize("override", ["num_round=2", "num_rounds=-1", "codec=zip", "seed=x"])
def test_a_mistake_is_found_before_anything_heavy_is_imported(override):
    script = (
        f"import sys\nfrom flserve_app.experiments.sweep import run\n"
        f"from flserve_app.errors import ConfigError\n"
        f"try:\n    run([{override!r}])\nexcept ConfigError as error:\n    print(error)\n"
        "print('heavy:', *{'torch', 'flwr', 'sqlalchemy', 'sklearn'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert done.stdout.splitlines()[-1] == "heavy:"


def test_a_single_run_raises_its_own_error():
    with pytest.raises(ConfigError, match="did you mean 'num_rounds'"):
        run([*TINY, "num_round=2"])
