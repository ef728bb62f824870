"""The `flserve` command for real: sweeps, the wheel away from the project, and every bad input in one line."""

import json
import subprocess
import sys

import pytest

from tests.e2e.command import flserve
from tests.e2e.flower import PROJECT, environment

pytestmark = pytest.mark.slow

TINY = ("experiment=tutorial", "num_rounds=2")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which one run was made, with a shared store."""
    folder = tmp_path_factory.mktemp("ran")
    done = flserve(folder, "run", *TINY, "store=shared", "hydra.run.dir=outputs/one")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_sweep_makes_a_run_folder_each_and_delivery_changes_no_digest(tmp_path):
    done = flserve(tmp_path, "run", "-m", *TINY, "codec=full,lossless", "seed=1,2", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in sorted((tmp_path / "sweep").glob("*/summary.json"))]
    digests = {(one["codec"], one["seed"]): one["final_digest"] for one in found}
    assert len(digests) == 4
    assert digests["full", 1] == digests["lossless", 1]
    assert digests["full", 2] == digests["lossless", 2]
    assert digests["full", 1] != digests["full", 2]
    assert "4 runs" in done.stdout


def test_a_run_shows_its_summary(ran):
    summary = json.loads((ran / "outputs/one/summary.json").read_text())
    assert {"versions", "final_accuracy", "final_digest", "bytes_down", "bytes_up", "bytes_down_full"} <= set(summary)
    assert {"bytes_up_full", "client_versions", "seconds"} <= set(summary)
    assert not (ran / "outputs/one/store").exists()
    assert (ran / "outputs/one/config.yaml").exists()


def test_history_commands_read_what_the_run_left(ran):
    listed = json.loads(flserve(ran, "log", "--store", "shared", "--json").stdout)
    assert [row["version"] for row in listed] == ["v0", "v1", "v2"]
    changes = json.loads(flserve(ran, "diff", "v0", "latest", "--store", "shared", "--json").stdout)
    assert changes["payload_bytes"]["lossless"] < changes["payload_bytes"]["full"]
    done = flserve(ran, "export", "latest", "--store", "shared", "--format", "npz", "--output", "model.npz")
    assert done.returncode == 0, done.stderr
    assert (ran / "model.npz").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "sede=3"], "error: the configuration has no key 'sede'"),
        (["run", "codec=nope"], "error: codec 'nope' is unknown; known: full"),
        (["run", "codec=null"], "error: Config group override must be a string or a list"),
        (["run", "num_rounds=-1"], "error: num_rounds is -1, expected at least 0"),
        (["run", "task.partition=odd"], "error: unknown partition scheme 'odd'; known: iid, dirichlet"),
        (["run", *TINY, "store=shared"], "error: model 'synthetic-mlp' is in the store already, at v2: continue it"),
        (["log", "--store", "nowhere"], "error: there is no store"),
        (["diff", "v0", "v9", "--store", "shared"], "error: model 'synthetic-mlp' has no version 'v9'"),
    ],
)
def test_bad_input_gets_one_sentence_and_changes_nothing(ran, arguments, sentence):
    before = flserve(ran, "log", "--store", "shared", "--json").stdout
    done = flserve(ran, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1
    assert flserve(ran, "log", "--store", "shared", "--json").stdout == before


def test_another_model_name_or_resume_goes_on_in_the_shared_store(ran):
    done = flserve(ran, "run", *TINY, "num_rounds=3", "store=shared", "resume=true", "hydra.run.dir=outputs/two")
    assert done.returncode == 0, done.stderr
    assert json.loads((ran / "outputs/two/summary.json").read_text())["versions"] == 4
    whole = flserve(
        ran, "run", *TINY, "num_rounds=3", "store=shared", "model_name=other", "hydra.run.dir=outputs/three"
    )
    assert whole.returncode == 0, whole.stderr
    two, three = (json.loads((ran / f"outputs/{name}/summary.json").read_text()) for name in ("two", "three"))
    assert two["final_digest"] == three["final_digest"]


def test_a_missing_extra_is_named(ran):
    blocked = (
        "import sys; sys.modules['blosc2'] = None; sys.argv = ['flserve', 'bench', 'codec', '--rounds', '1'];"
        " from flserve_app.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=ran, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "[bench]" in done.stderr


def test_an_installed_wheel_runs_away_from_the_project(tmp_path):
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(wheels), str(PROJECT)]
    subprocess.run(build, check=True, timeout=300, capture_output=True)
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target)]
    subprocess.run([*install, *map(str, wheels.glob("*.whl"))], check=True, timeout=300, capture_output=True)
    code = (
        "import sys, flserve_app; from flserve_app.config import conf_dir; "
        "print(flserve_app.__file__, conf_dir()); sys.argv[0] = 'flserve'; "
        "from flserve_app.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *TINY, "hydra.run.dir=here"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(target), FLWR_HOME=str(tmp_path / "home")),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert str(target / "flserve_app" / "conf") in done.stdout
    assert json.loads((tmp_path / "here/summary.json").read_text())["versions"] == 3
