"""`flwr run` for real: the CLI, a SuperLink, the simulation engine, Ray, and the same job by `flserve run`."""

import json
from pathlib import Path

import pytest

from flserve_app.registry import Registry
from tests.e2e.command import flserve
from tests.e2e.flower import Flower

pytestmark = pytest.mark.slow

SIMULATION = "num-supernodes=4 client-resources-num-cpus=1"
SMALL = "num_rounds=3 strategy.clients_per_round=3 strategy.clients_per_evaluation=2"


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    with Flower(tmp_path_factory.mktemp("flower")) as running:
        yield running


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_the_main_job_runs_on_real_images_and_leaves_a_whole_run_folder(flower):
    out = flower.run("--federation-config", SIMULATION, "--run-config", f'overrides="{SMALL} hydra.run.dir=main"')
    folder = flower.folder / "main"
    assert f"run folder {folder}" in out
    assert "final accuracy" in out
    found = summary(folder)
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert found["versions"] == 4
    assert found["final_digest"] == rows[-1]["digest"]
    assert found["failures"] == 0
    for name in ("bytes_down", "bytes_up", "bytes_down_message", "bytes_up_message"):
        assert found[name] == sum(row[name] for row in rows)
    assert 0 < found["bytes_down"] < found["bytes_down_full"]
    assert 0 < found["bytes_up"] < found["bytes_up_full"]
    assert rows[-1]["plans"].get("delta")
    with Registry.open(found["store"], create=False) as registry:
        versions = registry.versions(found["model_name"])
        assert [registry.load(version).digest for version in versions] == [row["digest"] for row in rows]
        assert versions[-1].serving is not None
        assert versions[-1].serving.classes == tuple(str(digit) for digit in range(10))


def test_full_delivery_and_flserve_run_end_in_the_same_digest(flower, tmp_path):
    flower.run("--federation-config", SIMULATION, "--run-config", f'overrides="{SMALL} hydra.run.dir=lossless"')
    flower.run(
        "--federation-config",
        SIMULATION,
        "--run-config",
        f'codec="full" uplink="full" overrides="{SMALL} hydra.run.dir=full"',
    )
    done = flserve(tmp_path, "run", "num_clients=4", *SMALL.split(), "codec=lossless-small", "hydra.run.dir=here")
    assert done.returncode == 0, done.stderr
    lossless, full, here = (
        summary(folder) for folder in (flower.folder / "lossless", flower.folder / "full", tmp_path / "here")
    )
    assert lossless["final_digest"] == full["final_digest"] == here["final_digest"]
    assert here["bytes_down"] <= lossless["bytes_down"] < full["bytes_down"]


def test_a_config_that_cannot_run_says_so_in_one_line(flower):
    out = flower.run("--run-config", 'codec="nope"')
    assert "flserve: error: codec 'nope' is unknown; known: full" in out
    out = flower.run("--federation-config", "num-supernodes=2", "--run-config", 'experiment="tutorial"')
    assert "15 clients are expected, the federation has 2: run with --federation-config 'num-supernodes=15'" in out
