"""A real deployment on loopback: SuperLink, SuperNodes with caches of their own, a process a message."""

import json
import re
import subprocess
import sys

import pytest

from flserve_app.registry import Registry
from tests.e2e.flower import PROJECT, Flower
from tests.e2e.stranger import write_stranger

pytestmark = pytest.mark.slow

JOB = "experiment=tutorial num_clients=2 strategy.clients_per_round=2"


def rows_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_secured_supernodes_keep_their_versions_over_restarts_and_runs(tmp_path):
    store = tmp_path / "shared"
    with Flower(tmp_path / "flower", simulation=False, secure=True) as flower:
        for number in range(2):
            flower.start_node(number, 2, cache=tmp_path / f"cache-{number}")
        flower.run("--run-config", f'overrides="{JOB} num_rounds=2 store={store} hydra.run.dir=first"')
        flower.stop("supernode-1")
        flower.start_node(1, 2, cache=tmp_path / "cache-1")
        flower.run("--run-config", f'overrides="{JOB} num_rounds=3 store={store} resume=true hydra.run.dir=second"')
        first, second = rows_of(flower.folder / "first"), rows_of(flower.folder / "second")
    assert [row["plans"] for row in first] == [{}, {"recipe": 2}, {"delta": 2}]
    assert [row["round"] for row in second] == [2, 3]
    assert second[-1]["plans"] == {"delta": 2}
    assert second[-1]["version"] == 3
    assert not any(row["failures"] for row in first + second)
    for number in range(2):
        held = list((tmp_path / f"cache-{number}" / "blobs").iterdir())
        assert [blob.name for blob in held] == [second[0]["digest"]]


@pytest.fixture(scope="module")
def node_packages(tmp_path_factory):
    """The wheel, installed as on a node of its own; its folder."""
    folder = tmp_path_factory.mktemp("node")
    pip = [sys.executable, "-m", "pip"]
    wheel = [*pip, "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(PROJECT)]
    subprocess.run(wheel, check=True, timeout=300, capture_output=True)
    (built,) = folder.glob("*.whl")
    target = folder / "packages"
    install = [*pip, "install", "--no-deps", "--quiet", "--target", str(target), str(built)]
    subprocess.run(install, check=True, timeout=300, capture_output=True)
    return target


def test_a_strangers_app_on_nodes_with_the_wheel_goes_on_when_clients_break_die_and_lose_their_state(
    tmp_path, node_packages
):
    orders = tmp_path / "orders"
    project = write_stranger(tmp_path / "stranger", orders)
    with Flower(tmp_path / "flower", simulation=False) as flower:
        for number in range(2):
            flower.start_node(number, 2, cache=tmp_path / f"cache-{number}", PYTHONPATH=str(node_packages))

        def run(rounds, *, resume):
            config = f'store="{tmp_path / "store"}" rounds={rounds} timeout=45 resume={str(resume).lower()}'
            out = flower.run("--run-config", config, project=project)
            found = re.findall(r"ROW (\d+) (\d+) (\d+) (\d+) (\{.*?\})", out)
            return out, {int(row[0]): (int(row[1]), int(row[2]), int(row[3]), row[4]) for row in found}

        _, rows = run(2, resume=False)
        assert rows[2] == (2, 2, 0, "{'delta': 2}")

        (orders / "1").write_text("break")
        out, rows = run(3, resume=True)
        assert rows[3] == (3, 1, 1, "{'delta': 2}")
        assert len(re.findall("flserve: .*failed: .*the stranger's app broke", out)) == 1

        (orders / "0").write_text("die")
        _, rows = run(4, resume=True)
        assert rows[4][:3] == (4, 1, 1)

        for path in (tmp_path / "cache-1" / "blobs").rglob("payload"):
            path.write_bytes(b"damaged")
        out, rows = run(5, resume=True)
        assert rows[5][:3] == (5, 2, 0)
        assert "'resend': 1" in rows[5][3]
        assert len(re.findall("flserve: partition-1 is served again in full", out)) == 1
        log = b"".join(path.read_bytes() for path in flower.folder.glob("supernode-*.log")).decode()
        assert f"FROM {node_packages / 'flserve_app'}" in log + out
    with Registry.open(tmp_path / "store", create=False) as registry:
        versions = registry.versions("model")
        assert [registry.load(version).digest for version in versions] == [version.digest for version in versions]
        assert len(versions) == 6
