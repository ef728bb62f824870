import numpy as np
import pytest

from flserve_app.artifact import Artifact, threads
from flserve_app.codec import Rounding, decode, encode_rounded, round_to
from flserve_app.codec.dither import dither_key, drawn
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.lossy import Lossy, lossy_of
from flserve_app.errors import CodecError

SHAPE = (50, 40)
VECTOR = [0.565886632190086, 0.7420956868445501, 0.9906855538720265]


def dithered(key, **settings):
    return Rounding(kind="grid", dither=key, **settings)


def pair(seed=0, dtype="f4"):
    random = np.random.RandomState(seed)
    base = random.normal(0, 0.1, SHAPE)
    return Artifact({"w": base.astype(dtype)}), Artifact({"w": (base + random.normal(0, 1e-3, SHAPE)).astype(dtype)})


def test_numbers_are_a_function_of_key_name_and_place():
    whole = drawn(5, "w", 0, 1000)
    for start, count in ((0, 1), (1, 7), (7, 100), (8, 8), (33, 900)):
        assert np.array_equal(drawn(5, "w", start, count), whole[start : start + count])
    assert not np.isin(drawn(6, "w", 0, 1000), whole).any()
    assert not np.isin(drawn(5, "v", 0, 1000), whole).any()


def test_numbers_are_uniform():
    numbers = drawn(1, "w", 0, 200_000)
    assert 0 < numbers.min() < 1e-4 < 1 - 1e-4 < numbers.max() < 1
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert np.abs(counts - 10_000).max() < 500
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


def test_numbers_stay_the_same_in_all_releases():
    assert drawn(dither_key(1, 2, "partition-3"), "fc.weight", 0, 3).tolist() == VECTOR


@pytest.mark.parametrize("multiple", [0.5, 4.0])
def test_the_mean_of_what_is_decoded_is_the_target(multiple):
    base, target = pair()
    times, rounding = 400, dithered(0, multiple=multiple)
    step = round_to(target, base, rounding).steps["w"]
    total = np.zeros(SHAPE)
    for key in range(times):
        rounded = round_to(target, base, dithered(dither_key(7, key, "partition-1"), multiple=multiple))
        total += decode(encode_rounded(rounded, base), base)["w"].astype("f8") - target["w"]
    bias = total / times / step
    # Of an element: standard deviation at most 1/2 step, and 5 sigma of 400 draws; of the mean over all: far less.
    assert np.abs(bias).max() < 5 * 0.5 / np.sqrt(times)
    assert abs(bias.mean()) < 5 * 0.5 / np.sqrt(times * bias.size)
    nearest = round_to(target, base, Rounding(kind="grid", multiple=multiple)).artifact["w"]
    assert np.abs(nearest - target["w"]).mean() / step > 3 * np.abs(bias).mean()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_it_moves_by_less_than_a_step_and_comes_back(dtype):
    base, target = pair(dtype=dtype)
    rounded = round_to(target, base, dithered(3, multiple=1.0))
    step = rounded.steps["w"]
    slack = 1e-3 if dtype == "f2" else 1e-6
    assert np.abs(rounded.artifact["w"].astype("f8") - target["w"]).max() < step + slack
    assert decode(encode_rounded(rounded, base), base) == rounded.artifact


def test_untouched_values_keep_every_bit():
    base = Artifact({"w": np.full(100, -0.0, "f4")})
    target = Artifact({"w": np.concatenate([np.full(99, -0.0, "f4"), np.ones(1, "f4")])})
    found = round_to(target, base, dithered(1)).artifact["w"]
    assert np.signbit(found[:99]).all()


def test_result_does_not_depend_on_threads(monkeypatch):
    random = np.random.RandomState(0)
    base = {name: random.normal(0, 0.1, (300, 700)).astype("f4") for name in "ab"}
    target = Artifact(
        {name: values + random.normal(0, 1e-3, values.shape).astype("f4") for name, values in base.items()}
    )
    digests = {round_to(target, Artifact(base), dithered(9)).artifact.digest for _ in range(2)}
    monkeypatch.setattr(threads, "SERIAL_BELOW_BYTES", 1 << 40)
    digests.add(round_to(target, Artifact(base), dithered(9)).artifact.digest)
    assert len(digests) == 1
    assert round_to(target, Artifact(base), dithered(8)).artifact.digest not in digests


def test_keys_differ_by_seed_round_and_client():
    keys = {dither_key(*each) for each in ((0, 1, "a"), (1, 1, "a"), (0, 2, "a"), (0, 1, "b"))}
    assert len(keys) == 4
    assert all(Rounding.from_json(dithered(key).to_json()).dither == key for key in keys)
    assert "dither" not in Rounding(kind="grid").to_json()


@pytest.mark.parametrize("dither", [-1, 1 << 64])
def test_keys_out_of_bounds_are_refused(dither):
    with pytest.raises(CodecError, match="rounding: dither is"):
        dithered(dither)


def test_sparse_rounding_has_no_dither():
    with pytest.raises(CodecError, match="rounding: dither is"):
        Rounding(kind="topk", dither=1)


def test_without_dither_the_key_is_not_used():
    assert Lossy(name="grid").at(1, 5).dither is None
    assert Lossy(name="grid", dither=True, feedback=Feedback(decay=0)).at(1, 5).dither == 5


def test_settings_come_from_a_configuration():
    assert lossy_of("grid", {"dither": True}) == Lossy(name="grid", dither=True, feedback=Feedback(decay=0))
    assert lossy_of("grid", {"dither": False}) == Lossy(name="grid")


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("grid", {"dither": True, "decay": 1.0}, r"dither cannot be combined with error feedback \(decay 1.0\)"),
        ("grid", {"dither": True, "zone": 0.7}, "dither cannot be combined with a dead zone"),
        ("grid", {"dither": 1}, "dither is 1, expected true or false"),
        ("topk", {"dither": True}, "argument 'dither' is unknown"),
    ],
)
def test_what_dither_does_not_go_together_with_is_refused(name, arguments, said):
    with pytest.raises(CodecError, match=said):
        lossy_of(name, arguments)


def test_sparse_settings_have_no_dither():
    with pytest.raises(CodecError, match="codec topk: dither is for grid alone"):
        Lossy(name="topk", dither=True, feedback=Feedback(decay=0))
