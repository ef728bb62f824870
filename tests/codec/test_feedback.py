import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import Artifact
from flserve_app.codec.feedback import Feedback, both, residual_of, with_residual
from flserve_app.codec.lossy import send
from flserve_app.codec.rounding import Rounding
from flserve_app.errors import CodecError

ALL = Feedback(cap=1e6)


def model(seed=0, scale=1.0, **extra):
    random = RandomState(seed)
    weights = {name: (scale * random.standard_normal(shape)).astype("f4") for name, shape in SHAPES.items()}
    return Artifact(weights | {"steps": np.array(seed, "i8")} | extra)


SHAPES = {"w": (4, 5), "b": (5,)}
FLOATS = list(SHAPES)


def coarse(artifact, step=0.5):
    return Artifact(
        {
            name: (np.round(values / step) * step).astype("f4") if name in SHAPES else values
            for name, values in artifact.items()
        }
    )


def norm(artifact):
    return math.sqrt(sum(float((values.astype("f8") ** 2).sum()) for values in artifact.values()))


def test_what_is_left_out_comes_with_the_next():
    wanted, base = model(1), model(2)
    rounded = coarse(wanted)
    residual = residual_of(wanted, rounded, base, FLOATS, ALL)
    assert set(residual) == set(FLOATS)
    for name in FLOATS:
        assert np.allclose(with_residual(rounded, residual)[name], wanted[name], atol=1e-6)
    assert with_residual(rounded, residual)["steps"] == wanted["steps"]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_nothing_is_lost_over_many_rounds(seed):
    """With all of it carried on, what was published differs from the sum of all moves by one residual."""
    published, truth, residual = model(seed), model(seed), None
    for number in range(30):
        move = model(seed + number + 1, 0.01)
        truth = Artifact({name: truth[name] + move[name] if name in SHAPES else truth[name] for name in truth})
        aggregate = Artifact(
            {name: published[name] + move[name] if name in SHAPES else published[name] for name in published}
        )
        wanted = with_residual(aggregate, residual)
        rounded = coarse(wanted)
        residual = residual_of(wanted, rounded, published, FLOATS, ALL)
        published = rounded
    for name in FLOATS:
        assert np.allclose(with_residual(published, residual)[name], truth[name], atol=1e-4)


def test_it_fades_and_its_norm_is_bounded():
    wanted, base = model(1), model(2)
    rounded = coarse(wanted)
    whole = residual_of(wanted, rounded, base, FLOATS, ALL)
    half = residual_of(wanted, rounded, base, FLOATS, Feedback(decay=0.5, cap=1e6))
    assert norm(half) == pytest.approx(0.5 * norm(whole))
    capped = residual_of(wanted, rounded, base, FLOATS, Feedback(cap=0.01))
    move = Artifact({name: wanted[name] - base[name] for name in FLOATS})
    assert norm(capped) == pytest.approx(0.01 * norm(move), rel=1e-5)


def test_without_feedback_or_without_a_rest_nothing_is_kept():
    wanted, base = model(1), model(2)
    assert residual_of(wanted, coarse(wanted), base, FLOATS, Feedback(decay=0)) is None
    assert residual_of(wanted, wanted, base, FLOATS, ALL) is None
    assert residual_of(wanted, coarse(wanted), wanted, FLOATS, ALL) is None
    assert with_residual(wanted, None) is wanted


def test_another_structure_gets_nothing_of_it():
    residual = Artifact({"w": np.ones((5, 4), "f4"), "b": np.ones(5, "f8"), "gone": np.ones(3, "f4")})
    target = model(1)
    assert with_residual(target, residual).digest == target.digest


def test_what_is_not_finite_is_neither_kept_nor_added():
    wanted = Artifact({"w": np.array([1.25, np.inf, np.nan, 3e38], "f4")})
    rounded = Artifact({"w": np.array([1.0, 0.0, 1.0, 2e38], "f4")})
    residual = residual_of(wanted, rounded, rounded, ["w"], ALL)
    assert residual["w"][:3].tolist() == [0.25, 0.0, 0.0]
    huge = Artifact({"w": np.array([3e38, 1, np.nan, np.inf], "f4")})
    added = with_residual(huge, Artifact({"w": np.array([3e38, 1, 1, 1], "f4")}))["w"]
    assert added[:2].tolist() == [np.float32(3e38), 2.0]
    assert np.isnan(added[2])
    assert added[3] == np.inf


@pytest.mark.parametrize("values", [{"decay": 1.5}, {"decay": math.nan}, {"cap": 0}, {"cap": math.inf}])
def test_values_out_of_range_are_refused(values):
    with pytest.raises(CodecError, match="feedback"):
        Feedback(**values)


def test_integers_have_no_residual():
    with pytest.raises(CodecError, match="int64"):
        residual_of(model(1), model(2), model(3), ["steps"], ALL)


def test_residuals_are_added_tensor_by_tensor():
    one = Artifact({"w": np.ones(3, "f4"), "b": np.ones(2, "f4")})
    other = Artifact({"w": np.full(3, 2, "f4"), "b": np.ones(4, "f4"), "c": np.full(1, 5, "f4")})
    found = both(one, other)
    assert {name: values.tolist() for name, values in found.items()} == {"w": [3] * 3, "b": [1, 1], "c": [5]}
    assert both(one, None) is both(None, one) is one
    assert both(None, None) is None


def test_settings_travel_as_json():
    feedback = Feedback(decay=0.5, cap=3.0)
    assert Feedback.from_json(feedback.to_json()) == feedback
    for text in ("{", "[]", '{"more": 1}', '{"decay": "a"}', '{"decay": 2}'):
        with pytest.raises(CodecError, match="feedback"):
            Feedback.from_json(text)


@pytest.mark.parametrize("kind", ["grid", "topk"])
def test_of_bfloat16_nothing_is_kept(kind):
    """It is rounded like any other, but numpy has no sums of it."""
    random = np.random.RandomState(0)
    words = {n: (random.standard_normal(100).astype("f4").view("u4") >> 16).astype("u2") for n in ("old", "new")}
    base, target = (
        Artifact({"h": words[n], "w": words[n].astype("f4")}, dtypes={"h": "bfloat16"}) for n in ("old", "new")
    )
    sent = send(target, base, Rounding(kind=kind, share=0.2, least=0), ALL, None)
    assert set(sent.residual) == {"w"}
    assert not np.array_equal(sent.artifact["h"], target["h"])
