"""A resumed run has to find the same model, rounds that are left, and what its clients kept."""

import shutil

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flserve_app.artifact import Artifact
from flserve_app.codec.lossy import lossy_of
from flserve_app.errors import ConfigError, Conflict
from flserve_app.strategy import VersionedStrategy
from tests.fleet import FleetGrid
from tests.strategy.personal import ROLES, SIZE, Books, arrays, personal
from tests.strategy.runs import federate

MODEL = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float32)}


def record(**changes):
    return ArrayRecord({name: Array(value) for name, value in {**MODEL, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("initial", "said"),
    [
        (record(b=None), "tensor 'b' of the version is not in initial_arrays"),
        (record(c=np.zeros(1, np.float32)), "tensor 'c' is not in the version"),
        (record(a=np.zeros((3, 2), np.float32)), r"tensor 'a' is float32 \(3, 2\), the version has float32 \(2, 3\)"),
        (record(b=np.zeros(4)), r"tensor 'b' is float64 \(4,\), the version has float32 \(4,\)"),
        (Artifact({"b": MODEL["b"], "a": MODEL["a"]}), "tensor 1 is 'b', the version has 'a' there"),
    ],
)
def test_another_model_is_refused_before_anybody_is_sent_it(tmp_path, initial, said):
    federate(tmp_path / "s", initial=record(), rounds=1)
    grid = FleetGrid(app=Books().app(), size=2)
    with pytest.raises(ConfigError, match=f"model v1 is another model than initial_arrays: {said}; .*model_name"):
        federate(tmp_path / "s", grid=grid, initial=initial, rounds=2, resume=True)
    assert grid.log == []


def test_other_values_and_private_tensors_are_the_same_model(tmp_path):
    federate(tmp_path / "s", initial=record(), rounds=1)
    assert federate(tmp_path / "s", initial=record(b=np.ones(4, np.float32)), rounds=2, resume=True).rows[-1].round == 2
    personal(tmp_path / "p", rounds=1)
    assert personal(tmp_path / "p", rounds=2, initial=arrays(seed=4), resume=True).rows[-1].round == 2


def test_bfloat16_is_float32_in_an_app(tmp_path):
    kept = Artifact({"a": np.zeros(2, np.uint16)}, dtypes={"a": "bfloat16"})
    federate(tmp_path / "s", initial=kept, rounds=0)
    again = ArrayRecord({"a": Array(np.full(2, 0.1, np.float32))})
    assert federate(tmp_path / "s", initial=again, rounds=0, resume=True).strategy.version.number == 0


def test_no_round_left_is_said(tmp_path, caplog):
    federate(tmp_path / "s", rounds=2)
    run = federate(tmp_path / "s", rounds=2, resume=True)
    assert "no round is left to do: model is at v2, round 2, and num_rounds is 2" in caplog.text
    assert run.strategy.version.number == 2


def test_what_clients_lost_is_counted_and_said(tmp_path, caplog):
    settings = {"uplink": lossy_of("topk", {"share": 0.1, "least": 0})}
    personal(tmp_path / "s", rounds=2, **settings)
    personal(tmp_path / "s", rounds=3, resume=True, **settings)
    assert " lost " not in caplog.text
    shutil.rmtree(tmp_path / "s.clients" / "clients" / "partition-1")
    personal(tmp_path / "s", rounds=4, resume=True, **settings)
    for what in ("their private tensors", "what rounding left out of their updates"):
        assert f"1 of {SIZE} clients (partition-1) lost {what}" in caplog.text
    assert "cache-dir" in caplog.text


def test_clients_that_are_gone_are_said(tmp_path, caplog):
    personal(tmp_path / "s", rounds=1)
    few = {"grid": FleetGrid(app=Books().app(), size=SIZE - 1), "inner": None}
    personal(tmp_path / "s", rounds=2, resume=True, **few)
    assert "1 clients that held it before are not here (partition-2)" in caplog.text


def test_nothing_is_kept_beside_a_store_where_nothing_has_to_be(tmp_path):
    federate(tmp_path / "s", rounds=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]
    personal(tmp_path / "p", rounds=1, roles=ROLES)
    assert (tmp_path / "p.clients").stat().st_mode & 0o777 == 0o700


def test_an_app_without_a_name_runs_again_as_it_is(tmp_path, caplog):
    caplog.set_level("INFO")
    names = [federate(tmp_path / "s", rounds=1, model_name=None).strategy.version.model for _ in range(3)]
    assert names == ["model", "model-2", "model-3"]
    assert "'model' is in the store already: this run is 'model-3'" in caplog.text
    on = federate(tmp_path / "s", rounds=2, model_name=None, resume=True).strategy.version
    assert (on.model, on.round) == ("model-3", 2)


def test_a_name_that_is_taken_is_refused_in_the_words_of_the_api(tmp_path):
    federate(tmp_path / "s", rounds=1)
    strategy = VersionedStrategy(store=tmp_path / "s", model_name="model")
    with pytest.raises(Conflict, match="continue it with resume=True, or choose another model_name"):
        strategy.start(FleetGrid(app=Books().app(), size=2), record())
