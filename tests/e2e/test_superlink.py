"""A real deployment on loopback: SuperLink, SuperNodes with caches of their own, a process a message."""

import json

import pytest

from tests.e2e.flower import Flower

pytestmark = pytest.mark.slow


def test_supernodes_fetch_deltas_and_keep_their_versions_from_run_to_run(tmp_path):
    store = tmp_path / "shared"
    job = "experiment=tutorial num_clients=2 strategy.clients_per_round=2"
    with Flower(tmp_path / "flower", simulation=False) as flower:
        for number in range(2):
            flower.start_node(number, 2, cache=tmp_path / f"cache-{number}")
        flower.run("--run-config", f'overrides="{job} num_rounds=2 store={store} hydra.run.dir=first"')
        flower.run("--run-config", f'overrides="{job} num_rounds=3 store={store} resume=true hydra.run.dir=second"')
        first, second = (
            [json.loads(line) for line in (flower.folder / name / "history.jsonl").read_text().splitlines()]
            for name in ("first", "second")
        )
    assert [row["plans"] for row in first] == [{}, {"full": 2}, {"delta": 2}]
    assert [row["round"] for row in second] == [2, 3]
    assert second[-1]["plans"] == {"delta": 2}
    assert second[-1]["version"] == 3
    assert not any(row["failures"] for row in first + second)
    for number in range(2):
        held = list((tmp_path / f"cache-{number}" / "blobs").iterdir())
        assert [blob.name for blob in held] == [second[0]["digest"]]
