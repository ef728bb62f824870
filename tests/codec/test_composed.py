import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import Artifact
from flserve_app.codec import Rounding, decode, encode, encode_composed, encode_rounded, inspect, round_to
from flserve_app.codec.composed import changed_places, grid_between

TOPK = Rounding(kind="topk", share=0.02)
GRID = Rounding(kind="grid", multiple=4)


def model(seed: int, side: int = 96) -> Artifact:
    random = RandomState(seed)
    shapes = {"a": (side, side), "b": (side,), "c": (2, side)}
    return Artifact({name: random.normal(0, 0.05, shape).astype("f4") for name, shape in shapes.items()})


def versions(start: Artifact, roundings: list[Rounding], seed: int = 1) -> tuple[list[Artifact], list[bytes]]:
    """Return what is published in each round, and the payload from each to the next."""
    random, published, payloads = RandomState(seed), [start], []
    for rounding in roundings:
        base = published[-1]
        target = Artifact(
            {name: values + random.normal(0, 1e-3, values.shape).astype("f4") for name, values in base.items()}
        )
        rounded = round_to(target, base, rounding)
        published.append(rounded.artifact)
        payloads.append(encode_rounded(rounded, base, rounding.kind))
    return published, payloads


@pytest.mark.parametrize("rounding", [TOPK, GRID])
@pytest.mark.parametrize("rounds", [2, 5, 20])
def test_one_payload_over_several_versions_is_exact_and_takes_less_than_the_chain(rounding, rounds):
    published, chain = versions(model(0), [rounding] * rounds)
    payload = encode_composed(published[-1], published[0], rounding.kind)
    assert decode(payload, published[0]) == published[-1]
    assert len(payload) < sum(map(len, chain))
    assert {tensor.op for tensor in inspect(payload).tensors} == {"grid-delta"}


def test_over_many_versions_it_takes_a_fraction_of_the_chain_and_of_the_lossless_delta():
    published, chain = versions(model(0), [TOPK] * 60)
    payload = encode_composed(published[-1], published[0], "topk")
    assert len(payload) < 0.5 * sum(map(len, chain))
    assert len(payload) < 0.4 * len(encode(published[-1], published[0], "lossless-small"))


def test_steps_of_different_sizes_come_to_the_smallest():
    wide, narrow = Rounding(kind="grid", multiple=8), Rounding(kind="grid", multiple=1)
    published, _ = versions(model(0), [wide, narrow, wide])
    steps = [
        round_to(after, before, each).steps["a"]
        for before, after, each in zip(published, published[1:], [wide, narrow, wide], strict=False)
    ]
    assert grid_between(published[-1], published[0], "a") <= max(steps)
    payload = encode_composed(published[-1], published[0])
    assert decode(payload, published[0]) == published[-1]


@pytest.mark.parametrize(
    "rounding", [TOPK, Rounding(kind="topk", fine=True), Rounding(kind="grid", multiple=1.7, fine=True)]
)
def test_over_one_version_the_grid_is_the_one_it_was_rounded_to(rounding):
    base = model(0)
    target = Artifact(
        {name: values + RandomState(5).normal(0, 1e-3, values.shape).astype("f4") for name, values in base.items()}
    )
    rounded = round_to(target, base, rounding)
    found = {name: grid_between(rounded.artifact, base, name) for name in rounded.steps}
    moved = {name for name in found if rounded.artifact[name].tobytes() != base[name].tobytes()}
    assert {name: found[name] for name in moved} == {name: rounded.steps[name] for name in moved}
    assert len(encode_composed(rounded.artifact, base, "topk")) == len(encode_rounded(rounded, base, "topk"))


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_floats_travel_losslessly_where_that_is_less(kind):
    """A step of half a last place moves some values to the next and leaves others: residuals say it in fewer bytes."""
    random = RandomState(6)
    values = random.normal(0, 0.1, (256, 256)).astype("f4")
    moved = values + random.normal(0, 1e-5, values.shape).astype("f4")
    if kind == "float16":
        pair = [Artifact({"w": each.astype("f2")}) for each in (values, moved)]
    else:
        words = [(each.view("<u4") >> 16).astype("<u2") for each in (values, moved)]
        pair = [Artifact({"w": each}, dtypes={"w": kind}) for each in words]
    base, target = pair
    payload = encode_composed(target, base)
    assert decode(payload, base) == target
    assert len(payload) <= len(encode(target, base, "lossless-small"))


@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(1, 40), st.integers(1, 70))
def test_changes_are_sampled_evenly_whatever_the_blocks(seed, size, most, block):
    random = RandomState(seed)
    old = random.randint(0, 3, size).astype("<u4")
    new = np.where(random.random_sample(size) < random.random_sample(), old, random.randint(0, 3, size)).astype("<u4")
    everywhere = np.flatnonzero(new != old)
    found = changed_places(new, old, most=most, block=block)
    assert found.tolist() == everywhere[:: max(1, -(-everywhere.size // most))].tolist()
    assert found.size <= most


def test_what_lies_on_no_grid_travels_as_the_codec_has_it():
    base = model(0)
    target = Artifact({name: values * np.float32(1.001) for name, values in base.items()})
    payload = encode_composed(target, base)
    assert decode(payload, base) == target
    assert "grid-delta" not in {tensor.op for tensor in inspect(payload).tensors if tensor.nbytes > 1000}
    assert len(payload) <= len(encode(target, base, "lossless-small")) + 8


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["float32", "float64", "float16", "bfloat16"]))
def test_any_two_artifacts_of_one_form_are_led_to_one_another(seed, dtype):
    random = RandomState(seed)
    size = {"float64": 8, "float32": 4}.get(dtype, 2)
    storage = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype]
    old, new = (np.frombuffer(random.bytes(600 * size), storage) for _ in range(2))
    if random.randint(0, 2):
        new = np.where(random.randint(0, 9, 600) == 0, new, old)
    base, target = (Artifact({"w": each}, dtypes={"w": dtype}) for each in (old, new))
    assert decode(encode_composed(target, base), base).digest == target.digest


def test_another_form_and_integers_are_led_to_as_well():
    base = Artifact({"w": np.zeros((4, 4), "f4"), "n": np.arange(40)})
    target = Artifact({"w": np.ones((2, 8), "f4"), "n": np.arange(40) + 3, "x": np.zeros(3, "f4")})
    assert decode(encode_composed(target, base), base) == target
