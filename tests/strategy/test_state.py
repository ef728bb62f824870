"""What strategies remember: saved with each version, given back on resumption, refused where it is not known."""

import json
import logging

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedYogi
from flwr.supercore.privacy_accounting import GaussianPrivacyEvent, NeighboringRelation, PrivacyConfig, SamplingMethod

from flserve_app.client import versioned_mod
from flserve_app.client.integers import floats_only
from flserve_app.errors import ConfigError, StoreError
from flserve_app.registry import Registry
from flserve_app.strategy.state import KIND, REMEMBERED, restore_state, save
from tests.fleet import FleetGrid
from tests.strategy.blobs import initial, learner
from tests.strategy.matrix import CLIENTS, SAMPLING, SETTINGS, STATEFUL, WRAPPERS, made
from tests.strategy.runs import federate


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.ERROR, logger="flwr")


def run(path, strategy, rounds, name="FedAvg", **options):
    mods = [floats_only(mod) for mod in [WRAPPERS.get(name)] if mod is not None]
    grid = FleetGrid(app=learner([versioned_mod, *mods]), size=CLIENTS)
    return federate(path, grid=grid, inner=strategy, rounds=rounds, initial=initial(), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *((name, "FedAvg") for name in SETTINGS),
        *((name, "FedAvg" if "Fixed" in name else "FedAdam") for name in WRAPPERS),
    ],
)
def test_two_rounds_and_two_more_are_four_bit_for_bit(tmp_path, name, inside):
    whole = run(tmp_path / "whole", made(name, inside=inside), 4, name)
    run(tmp_path / "parts", made(name, inside=inside), 2, name).registry.close()
    rest = run(tmp_path / "parts", made(name, inside=inside), 4, name, resume=True)
    assert [row.round for row in rest.rows] == [2, 3, 4]
    assert [row.digest for row in rest.rows] == [row.digest for row in whole.rows[2:]]


@pytest.mark.slow
@pytest.mark.parametrize("name", STATEFUL)
def test_without_its_state_a_strategy_would_go_another_way(tmp_path, name):
    """The test above can fail: the state matters."""
    clip = {"clip": 0.4} if name in WRAPPERS else {}
    whole = run(tmp_path / "whole", made(name, **clip), 4, name)
    first = run(tmp_path / "parts", made(name, **clip), 2, name)
    kind, data = first.registry.load_state("model", 2)
    fresh = save(made(name, **clip))
    assert kind == KIND
    assert data != fresh[1]
    first.registry.save_state("model", 2, fresh[1], kind)
    first.registry.close()
    rest = run(tmp_path / "parts", made(name, **clip), 4, name, resume=True)
    assert rest.digest != whole.digest


class Momentum(FedAvg):
    """Somebody's own strategy, with a memory of its own."""

    memory = None

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        now = arrays["w"].numpy()
        self.memory = now if self.memory is None else 0.5 * self.memory + 0.5 * now
        arrays["w"] = type(arrays["w"])(self.memory)
        return arrays, metrics


class Portable(Momentum):
    def flserve_state(self):
        return {} if self.memory is None else {"memory": self.memory, "calls": 3, "note": "m", "scale": 0.5}

    def load_flserve_state(self, state):
        self.memory = state["memory"]
        assert (state["calls"], state["note"], state["scale"]) == (3, "m", 0.5)


def test_a_strategy_whose_memory_is_not_known_runs_but_refuses_to_resume(tmp_path):
    run(tmp_path / "s", Momentum(**SAMPLING), 2).registry.close()
    sentence = r"Momentum cannot be resumed: what it remembers is not known; .*flserve_state\(\)"
    with pytest.raises(ConfigError, match=sentence):
        run(tmp_path / "s", Momentum(**SAMPLING), 4, resume=True)
    with Registry.open(tmp_path / "s") as registry:
        assert len(registry.versions("model")) == 3


def test_a_strategy_that_says_what_it_remembers_is_resumed(tmp_path):
    whole = run(tmp_path / "whole", Portable(**SAMPLING), 4)
    run(tmp_path / "parts", Portable(**SAMPLING), 2).registry.close()
    assert run(tmp_path / "parts", Portable(**SAMPLING), 4, resume=True).digest == whole.digest


def test_a_state_is_given_back_to_its_own_class_only(tmp_path):
    run(tmp_path / "s", made("FedAdam"), 2).registry.close()
    with pytest.raises(ConfigError, match="model v2 was made with FedAdam and cannot be continued with FedYogi"):
        run(tmp_path / "s", made("FedYogi"), 4, resume=True)


def test_a_version_without_a_state_continues_a_strategy_that_needs_none_only(tmp_path):
    first = run(tmp_path / "s", Momentum(**SAMPLING), 2)
    assert first.registry.load_state("model", 2) is None
    first.registry.close()
    with pytest.raises(ConfigError, match="FedAdam cannot be resumed from model v2: no state was saved with it"):
        run(tmp_path / "s", made("FedAdam"), 3, resume=True)
    assert run(tmp_path / "s", made("FedAvg"), 3, resume=True).strategy.version.number == 3


def test_a_run_that_was_killed_before_its_first_round_begins_afresh(tmp_path):
    run(tmp_path / "s", Momentum(**SAMPLING), 0).registry.close()
    assert run(tmp_path / "s", Momentum(**SAMPLING), 1, resume=True).strategy.version.round == 1


class Accountant:
    """Follows Flower's protocol for accountants; the one it brings needs a package of its own."""

    def __init__(self):
        self.config = PrivacyConfig(
            target_delta=1e-5,
            population_size=100,
            sampling_method=SamplingMethod.NO_AMPLIFICATION,
            neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
        )
        self.releases = []

    def compose(self, event, count=1):
        self.releases.append([event.noise_multiplier, event.sample_size, count])

    def state_dict(self):
        return {"releases": self.releases}

    def load_state_dict(self, state):
        self.releases = state["releases"]


def test_an_accountant_goes_on_counting():
    def wrapped(accountant):
        return DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 5, accountant=accountant)

    before, after = Accountant(), Accountant()
    strategy = wrapped(before)
    before.compose(GaussianPrivacyEvent(noise_multiplier=1.0, sample_size=5, population_size=100))
    saved = save(strategy)
    restore_state(wrapped(after), saved, "m v3")
    assert after.releases == [[1.0, 5, 1]]
    with pytest.raises(ConfigError, match="was saved with its accountant, and is resumed without one"):
        restore_state(wrapped(None), saved, "m v3")


def test_dtypes_shapes_order_and_bits_survive():
    strategy = FedAdam()
    strategy.m_t = {"z": np.float64(np.pi), "a": np.array([[np.nan, -0.0]], np.float32), "i": np.asarray(3, np.int64)}
    strategy.v_t = {}
    again = FedAdam()
    restore_state(again, save(strategy), "m v1")
    assert list(again.m_t) == ["z", "a", "i"]
    assert again.v_t == {}
    for name, value in strategy.m_t.items():
        assert again.m_t[name].dtype == value.dtype
        assert again.m_t[name].tobytes() == value.tobytes()
        again.m_t[name] += 1  # nothing is read-only


@pytest.mark.parametrize("damage", [b"", b"\x01", b"\xff\xff\xff\x7f{}", lambda data: data[:-3], lambda data: data[4:]])
def test_a_malformed_state_is_one_sentence(damage):
    _, data = save(FedYogi())
    with pytest.raises(StoreError, match="the strategy's state of m v1 is malformed"):
        restore_state(FedYogi(), (KIND, damage(data) if callable(damage) else damage), "m v1")


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="of kind 'residual', expected 'strategy-1'"):
        restore_state(FedAvg(), ("residual", b""), "m v1")


def test_a_state_of_odd_values_is_refused():
    class Odd(Portable):
        def flserve_state(self):
            return {"thing": object()}

    with pytest.raises(ConfigError, match="the state '0/thing' is a object, expected an array, a number or text"):
        save(Odd())


def test_a_stateless_state_is_small_and_readable():
    _, data = save(FedAvg())
    assert len(data) < 300
    assert json.loads(data[4 : data.index(b"]}") + 2]) == {"classes": ["FedAvg"], "levels": [{}]}
    assert set(REMEMBERED) == {*SETTINGS, *WRAPPERS}


def test_the_momentum_of_a_record_comes_back_as_one():
    strategy = made("FedAvgM")
    strategy.current_arrays, strategy.momentum_vector = initial(), [array.numpy() for array in initial().values()]
    again = made("FedAvgM")
    restore_state(again, save(strategy), "m v1")
    assert isinstance(again.current_arrays, ArrayRecord)
    assert [array.dtype for array in again.momentum_vector] == [array.dtype for array in strategy.momentum_vector]
