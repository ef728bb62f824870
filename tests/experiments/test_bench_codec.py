import sys
from io import StringIO

import numpy as np
import pytest
from numpy.random import RandomState
from rich.console import Console

from flserve_app.artifact import Artifact
from flserve_app.errors import FlserveError, MissingExtra, TaskError
from flserve_app.experiments.bench_codec import Row, measure, run, table
from flserve_app.experiments.checkpoints import Checkpoints, as_bfloat16, client_checkpoints, federated_checkpoints
from flserve_app.experiments.peers import Contender, contenders


@pytest.fixture(scope="module")
def pair() -> Checkpoints:
    old = RandomState(0).normal(0, 0.1, (300, 500)).astype("f4")
    new = old + RandomState(1).normal(0, 3e-4, old.shape).astype("f4")
    bias = np.zeros(300, "f4")
    return Checkpoints(
        dtype="float32", base=Artifact({"w": old, "b": bias}), target=Artifact({"w": new, "b": bias + np.float32(1)})
    )


def test_every_contender_gives_the_checkpoint_back_and_ours_are_smallest(pair):
    pytest.importorskip("blosc2")
    pytest.importorskip("zipnn")
    for each in (pair, as_bfloat16(pair)):
        rows = {row.name: row for row in measure(each, contenders(each), repeats=1)}
        ours = rows.pop("lossless-small")
        assert rows.pop("full").fraction == pytest.approx(1, abs=1e-3)
        assert rows.pop("lossless").fraction < 0.7
        assert len(rows) == 5
        assert all(ours.nbytes < row.nbytes for row in rows.values())


def test_contender_that_gives_back_something_else_is_an_error(pair):
    wrong = Contender(name="broken", encode=lambda: [b""], decode=lambda parts: np.zeros(150_300, "u4"))
    with pytest.raises(FlserveError, match="broken does not give back the float32 checkpoint"):
        measure(pair, [wrong], repeats=1)


@pytest.mark.parametrize("package", ["blosc2", "zipnn"])
def test_missing_peer_is_named_before_anything_is_trained(pair, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    other = {"blosc2": "zipnn", "zipnn": "blosc2"}[package]
    pytest.importorskip(other)
    with pytest.raises(MissingExtra, match=rf"{package} is not installed: pip install 'flserve\[bench\]'"):
        run(rounds=10_000, seed=0, repeats=1)
    with pytest.raises(MissingExtra):
        contenders(pair)


def test_checkpoints_are_a_round_apart():
    found = federated_checkpoints(rounds=0, seed=1)
    assert found.base.specs == found.target.specs
    assert 4e6 < found.target.nbytes < 8e6
    moved = found.target["0.weight"] - found.base["0.weight"]
    assert 0 < np.abs(moved).max() < 1


def test_client_starts_from_the_base_and_is_one_of_those_the_aggregate_is_made_of():
    pair = federated_checkpoints(rounds=1, seed=1, width=4)
    client = client_checkpoints(pair.base, rounds=1, seed=1, width=4)
    assert client.base == pair.base
    moved, mean = (each.target["0.weight"] - each.base["0.weight"] for each in (client, pair))
    assert np.abs(moved - mean).max() > 0
    assert np.corrcoef(moved.ravel(), mean.ravel())[0, 1] > 0.2
    assert client.target == client_checkpoints(pair.base, rounds=1, seed=1, width=4).target


def test_unknown_task_is_refused_before_it_is_loaded():
    with pytest.raises(TaskError, match="'synthetic'; there are: digits, mnist5k"):
        federated_checkpoints(rounds=0, seed=1, task="synthetic")


def test_table_has_a_line_for_each_row():
    row = Row(
        dtype="float32",
        name="mine",
        nbytes=123,
        fraction=0.5,
        encode_mb_s=1234.5,
        decode_mb_s=9.9,
        encode_cpu=1.5,
        decode_cpu=2,
    )
    console = Console(width=120, record=True, file=StringIO())
    console.print(table([row, row]))
    assert console.export_text().count("mine") == 2
