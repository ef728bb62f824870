import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import Artifact, threads
from flserve_app.artifact.roles import Roles
from flserve_app.codec import (
    Rounding,
    decode,
    encode,
    encode_rounded,
    inspect,
    round_to,
)
from flserve_app.errors import CodecError
from tests.codec.examples import halved, network, pairs, trained

GRID, TOPK = Rounding(kind="grid"), Rounding(kind="topk", share=0.05)


@pytest.fixture(scope="module")
def base():
    return Artifact(network(1))


@pytest.fixture(scope="module")
def target():
    return Artifact(trained(network(1), 1))


def one(values, dtype="f4"):
    return Artifact({"w": np.asarray(values, dtype)})


def steps(rounded, base, name="w"):
    return (rounded.artifact[name].astype("f8") - base[name]) / rounded.steps[name]


def test_the_grids_step_is_the_power_of_two_nearest_to_a_multiple_of_sigma():
    moves = RandomState(0).normal(0, 2.0**-10, 10_000)
    for multiple, exponent in ((1, -10), (1.3, -10), (1.5, -9), (4, -8), (0.1, -13)):
        rounded = round_to(one(moves), one(np.zeros(10_000)), Rounding(kind="grid", multiple=multiple))
        assert rounded.steps == {"w": 2.0**exponent}


def test_fine_steps_lie_between_powers_of_two():
    moves = RandomState(0).normal(0, 2.0**-10, 10_000)
    for multiple, step in ((1, 1.0), (1.2, 1.25), (1.45, 1.5), (1.7, 1.75), (1.95, 2.0), (4.9, 5.0)):
        rounding = Rounding(kind="grid", multiple=multiple, fine=True)
        assert round_to(one(moves), one(np.zeros(10_000)), rounding).steps == {"w": step * 2.0**-10}


def test_one_step_for_the_model_is_from_all_changes_together():
    random = RandomState(0)
    moves = {"far": random.normal(0, 2.0**-6, 1000), "near": random.normal(0, 2.0**-9, 3000)}
    target = Artifact({name: each.astype("f4") for name, each in moves.items()})
    base = Artifact({name: np.zeros(each.size, "f4") for name, each in moves.items()})
    apart = round_to(target, base, Rounding(kind="grid", multiple=1)).steps
    assert apart == {"far": 2.0**-6, "near": 2.0**-9}
    together = round_to(target, base, Rounding(kind="grid", multiple=1, scope="model")).steps
    assert together == {"far": 2.0**-7, "near": 2.0**-7}


@pytest.mark.parametrize("kind", ["grid", "topk"])
def test_fine_steps_come_back_to_the_last_bit(kind, target, base):
    rounding = Rounding(kind=kind, fine=True, share=0.2, multiple=1.2)
    rounded = round_to(target, base, rounding)
    assert any(step.hex().split("p")[0] != "0x1.0000000000000" for step in rounded.steps.values())
    assert decode(encode_rounded(rounded, base), base) == rounded.artifact


def test_changes_are_rounded_to_the_nearest_step():
    moves = RandomState(0).normal(0, 2.0**-10, 10_000).astype("f4")
    rounded = round_to(one(moves), one(np.zeros(10_000)), Rounding(kind="grid", multiple=1))
    assert np.abs(rounded.artifact["w"] - moves).max() <= 2.0**-11
    assert np.array_equal(rounded.artifact["w"] % 2.0**-10, np.zeros(10_000))


def test_a_wider_zone_keeps_only_what_fills_it():
    moves = RandomState(0).normal(0, 2.0**-10, 10_000).astype("f4")
    rounded = round_to(one(moves), one(np.zeros(10_000)), Rounding(kind="grid", multiple=1, zone=0.8))
    assert np.array_equal(rounded.artifact["w"] != 0, np.abs(moves) >= np.float32(0.8 * 2.0**-10))


def test_top_keeps_the_largest_changes_of_all_tensors():
    random = RandomState(0)
    moves = {"a": random.normal(0, 1e-3, 5000), "b": random.normal(0, 1e-4, 5000)}
    target = Artifact({name: each.astype("f4") for name, each in moves.items()})
    base = Artifact({name: np.zeros(5000, "f4") for name in moves})
    rounded = round_to(target, base, Rounding(kind="topk", share=0.1))
    kept = {name: rounded.artifact[name] != 0 for name in moves}
    assert sum(each.sum() for each in kept.values()) == 1000
    assert not kept["b"].any()
    assert np.abs(target["a"][kept["a"]]).min() > np.abs(target["a"][~kept["a"]]).max()
    assert rounded.steps["a"] == rounded.steps["b"]


def test_levels_bound_the_steps_and_one_level_is_ternary():
    moves = RandomState(0).standard_t(2, 20_000) * 1e-3
    base = one(np.zeros(20_000))
    for levels in (1, 3, 255):
        found = steps(round_to(one(moves), base, Rounding(kind="topk", share=0.05, levels=levels)), base)
        assert np.count_nonzero(found) == 1000
        assert np.abs(found).max() <= levels
        assert set(np.sign(found)) == {-1, 0, 1}
    ternary = round_to(one(moves), base, Rounding(kind="topk", share=0.05, levels=1))
    mean = np.sort(np.abs(moves))[-1000:].mean()
    assert 2.0**-0.5 <= ternary.steps["w"] / mean <= 2.0**0.5


def test_where_little_changes_top_keeps_all_of_it():
    moves = np.zeros(1000)
    moves[:4] = 0.01, -0.02, 1e-9, 2.0
    found = round_to(one(moves), one(np.zeros(1000)), Rounding(kind="topk", share=0.5)).artifact["w"]
    assert found[3] == pytest.approx(2.0, rel=0.01)
    assert np.array_equal(found[4:], np.zeros(996))


def test_threshold_of_a_large_model_is_sampled():
    random = np.random.Generator(np.random.SFC64(0))
    moves = random.standard_normal((2100, 2048), dtype=np.float32)
    rounded = round_to(Artifact({"w": moves}), Artifact({"w": np.zeros_like(moves)}), Rounding(kind="topk", share=0.01))
    assert np.count_nonzero(rounded.artifact["w"]) == pytest.approx(0.01 * moves.size, rel=0.03)


@pytest.mark.parametrize("rounding", [GRID, TOPK])
def test_some_tensors_are_taken_exactly(rounding):
    random = RandomState(0)
    old = {name: random.normal(0, 0.1, 100).astype("f4") for name in ("w", "named", "nan", "inf", "large", "moved")}
    new = {name: array + random.normal(0, 1e-3, 100).astype("f4") for name, array in old.items()}
    old["large"][0] = new["large"][0] = 1e6
    new["nan"][3], old["inf"][4] = np.nan, np.inf
    new["moved"] = new["moved"].reshape(10, 10)
    old |= {"count": np.arange(100), "tiny": np.zeros(8, "f4"), "complex": np.zeros(100, "c8"), "empty": np.zeros(0)}
    new |= {"count": np.arange(100) + 1, "tiny": np.ones(8, "f4"), "complex": np.ones(100, "c8"), "empty": np.zeros(0)}
    new["new"] = random.normal(0, 1, 100).astype("f4")
    target, base = Artifact(new), Artifact(old)
    rounded = round_to(target, base, rounding, exact=["named"])
    assert list(rounded.steps) == ["w"]
    differing = [n for n in target if rounded.artifact[n].tobytes() != target[n].tobytes()]
    assert differing == ["w"]
    assert decode(encode_rounded(rounded, base), base) == rounded.artifact


@pytest.mark.parametrize("rounding", [GRID, TOPK])
def test_untouched_elements_keep_every_bit(rounding):
    old = np.full(1000, -0.0, "f4")
    new = old.copy()
    new[7], new[8] = 0.5, 0.0
    rounded = round_to(one(new), one(old), rounding)
    assert rounded.artifact["w"][7] == 0.5
    assert np.signbit(np.delete(rounded.artifact["w"], 7)).all()


@settings(max_examples=30, deadline=None)
@given(pairs(), st.sampled_from([GRID, TOPK, replace(GRID, multiple=0.01), replace(TOPK, share=1, levels=1)]))
def test_whatever_changed_is_rounded_and_comes_back(pair, rounding):
    base, target = pair
    rounded = round_to(target, base, replace(rounding, exact_bytes=0))
    assert rounded.artifact.specs == target.specs
    assert decode(encode_rounded(rounded, base), base).manifest == rounded.artifact.manifest
    exact = {name for name in target if name not in rounded.steps}
    assert all(rounded.artifact[name].tobytes() == target[name].tobytes() for name in exact)


@pytest.mark.parametrize("rounding", [GRID, TOPK])
def test_sixteen_bits_are_rounded_too(rounding):
    base, target = halved(network(1)), halved(trained(network(1), 1))
    rounded = round_to(target, base, rounding)
    assert "fc.weight" in rounded.steps
    payload = encode_rounded(rounded, base)
    assert decode(payload, base) == rounded.artifact
    assert {tensor.op for tensor in inspect(payload).tensors} > {"grid-delta"}


@pytest.mark.parametrize("rounding", [GRID, TOPK, replace(TOPK, levels=1)])
def test_result_does_not_depend_on_threads(monkeypatch, rounding):
    random = RandomState(0)
    old = {name: random.normal(0, 0.1, (300, 700)).astype("f4") for name in "ab"}
    new = {name: array + random.normal(0, 1e-3, array.shape).astype("f4") for name, array in old.items()}
    base, target = Artifact(old), Artifact(new)
    digests = {round_to(target, base, rounding).artifact.digest for _ in range(3)}
    monkeypatch.setattr(threads, "SERIAL_BELOW_BYTES", 1 << 40)
    digests.add(round_to(target, base, rounding).artifact.digest)
    assert len(digests) == 1


def test_digest_is_that_of_the_arrays(base, target):
    rounded = round_to(target, base, GRID)
    assert rounded.artifact.digest == Artifact({name: array.copy() for name, array in rounded.artifact.items()}).digest
    assert not any(array.flags.writeable for array in rounded.artifact.values())


def test_what_rounding_leaves_out_may_follow(base, target):
    held = base
    for _ in range(40):
        held = round_to(target, held, replace(GRID, multiple=1)).artifact
    assert max(np.abs(held[name] - target[name]).max() for name in ("fc.weight", "conv.weight")) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("rounding", [GRID, TOPK])
def test_after_a_thousand_versions_all_hold_the_same(rounding):
    random = RandomState(0)
    served = held = late = one(random.normal(0, 0.1, (20, 30)))
    target, missed = served["w"].astype("f8"), []
    for _ in range(1000):
        target = target + random.normal(0, 1e-3, target.shape) * 2.0 ** random.randint(-4, 3)
        rounded = round_to(one(target), served, rounding)
        payload = encode_rounded(rounded, served)
        held, served = decode(payload, held), rounded.artifact
        missed.append(payload)
        if random.randint(0, 5) == 0:
            for each in missed:
                late = decode(each, late)
            missed.clear()
            assert late == held == served
    assert held == served == decode(encode(served, codec="lossless-small"))
    assert np.abs(served["w"] - target).max() < 0.2


def test_settings_travel_as_json():
    rounding = Rounding(kind="topk", share=0.005, levels=7)
    assert Rounding.from_json(rounding.to_json()) == rounding
    mine = replace(rounding, roles=Roles((("pos.*", "statistic"), ("*", "weight"))))
    assert Rounding.from_json(mine.to_json()) == mine
    assert "roles" not in rounding.to_json()
    wrong = ("more", 1), ("share", "a"), ("roles", [["a", "b"]]), ("roles", 3)
    for text in ("[]", "{", *(json.dumps({"kind": "grid", name: value}) for name, value in wrong)):
        with pytest.raises(CodecError, match="not settings"):
            Rounding.from_json(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sign"},
        {"multiple": 0.0},
        {"multiple": float("nan")},
        {"zone": 0.4},
        {"share": 0.0},
        {"share": 1.1},
        {"levels": 0},
        {"exact_bytes": -1},
    ],
)
def test_settings_out_of_bounds_are_refused(wrong):
    with pytest.raises(CodecError, match=f"rounding: {next(iter(wrong))} is"):
        Rounding(**({"kind": "grid"} | wrong))
