"""Steps are made finer where those asked for would lose a change, and only there."""

import numpy as np
import pytest

from flserve_app import Artifact, decode
from flserve_app.codec.feedback import Feedback, with_residual
from flserve_app.codec.finer import FEW_BYTES, MOST_BEHIND
from flserve_app.codec.lossy import Lossy, lossy_of, send
from flserve_app.codec.rounding import LEAST, Rounding, round_to
from flserve_app.errors import CodecError

SIZE = 4000
ROUNDINGS = {
    "grid": Rounding(kind="grid"),
    "grid of the model": Rounding(kind="grid", scope="model"),
    "topk": Rounding(kind="topk"),
    "ternary": Rounding(kind="topk", levels=1),
}
DTYPES = ("float32", "float64", "float16")


@pytest.fixture(params=list(ROUNDINGS))
def rounding(request):
    return ROUNDINGS[request.param]


def model(seed=0, dtype="float32", **more):
    random = np.random.RandomState(seed)
    made = {"a.weight": random.standard_normal((SIZE // 50, 50)), "b.weight": random.standard_normal(SIZE)}
    return Artifact({name: values.astype(dtype) for name, values in made.items()} | more)


def alike(base, size=2.0**-6, seed=1):
    """Return a target whose values all move about equally far, as under Adam with few steps."""
    random = np.random.RandomState(seed)

    def moves(shape):
        return size * random.choice([-1, 1], shape) * random.uniform(0.9, 1.1, shape)

    return Artifact({name: (values + moves(values.shape)).astype(values.dtype) for name, values in base.items()})


def squares(one, other):
    return sum(float(((one[name].astype("f8") - other[name]) ** 2).sum()) for name in one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_change_of_equal_moves_is_not_rounded_to_nothing(rounding, dtype):
    base = model(dtype=dtype)
    target = alike(base)
    sent = send(target, base, rounding, Feedback(), None)
    assert squares(sent.artifact, target) <= (1 - LEAST) * squares(base, target) * 1.01
    assert sent.loss.halvings > 0
    assert 0 < sent.loss.coarse <= sent.loss.tensors == 2
    assert decode(sent.payload, base) == sent.artifact


def test_rounding_as_it_was_loses_it():
    base = model()
    rounded = round_to(alike(base), base, ROUNDINGS["grid"])
    assert rounded.artifact == base, "the fault this is about"
    assert send(alike(base), base, Rounding(kind="grid", least=0), Feedback(), None).artifact == base


def test_a_model_that_moves_alike_for_rounds_is_followed(rounding):
    """Each round the same way: what is held is never more than about a round behind."""
    held = wanted = model()
    start, residual = held, None
    for number in range(1, 13):
        step = alike(model(), seed=7)
        moved = Artifact({n: held[n] + (step[n] - model()[n]) for n in held})
        sent = send(moved, held, rounding, Feedback(), residual)
        held, residual = sent.artifact, sent.residual
        wanted = Artifact({n: wanted[n] + (step[n] - model()[n]) for n in held})
        if number > 3:
            assert squares(held, wanted) <= (MOST_BEHIND * 1.05) ** 2 * squares(start, alike(model(), seed=7))


def test_where_few_move_far_nothing_is_made_finer():
    base, random = model(), np.random.RandomState(3)
    moves = {n: np.where(random.random_sample(v.shape) < 0.01, 1.0, 0.001) for n, v in base.items()}
    target = Artifact({n: (v + moves[n]).astype("f4") for n, v in base.items()})
    for rounding in (ROUNDINGS["grid"], ROUNDINGS["topk"]):
        sent = send(target, base, rounding, Feedback(), None)
        assert sent.loss.halvings == sent.loss.coarse == 0
        assert sent.artifact == round_to(target, base, rounding).artifact
        assert 0 < sent.loss.lost < 0.5


def test_one_tensor_of_many_is_made_finer_alone():
    base, random = model(), np.random.RandomState(3)
    far = np.where(random.random_sample(SIZE) < 0.01, 1.0, 0.001)
    target = Artifact({**alike(base), "b.weight": (base["b.weight"] + far).astype("f4")})
    sent = send(target, base, ROUNDINGS["grid"], Feedback(), None)
    assert sent.loss.coarse == 1
    assert np.array_equal(sent.artifact["b.weight"], round_to(target, base, ROUNDINGS["grid"]).artifact["b.weight"])


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_models_of_a_few_numbers_are_exact(rounding, dtype):
    random = np.random.RandomState(0)
    stored = "uint16" if dtype == "bfloat16" else dtype
    size = FEW_BYTES // np.dtype(stored).itemsize

    def made():
        words = (random.standard_normal(size).astype("f4").view("u4") >> 16).astype("u2")
        values = words if dtype == "bfloat16" else random.standard_normal(size).astype(dtype)
        return Artifact({"w": values}, dtypes={"w": dtype})

    base, target = made(), made()
    sent = send(target, base, rounding, Feedback(), None)
    assert sent.artifact == target
    assert sent.residual is None
    assert (sent.loss.lost, sent.loss.tensors) == (0, 0)


def test_a_change_of_nothing_a_residual_alone_and_what_is_not_finite_end():
    base = model()
    for rounding in ROUNDINGS.values():
        assert send(base, base, rounding, Feedback(), None).artifact == base
        left = Artifact({n: np.full_like(v, 0.01) for n, v in base.items()})
        sent = send(base, base, rounding, Feedback(), left)
        assert squares(with_residual(base, left), sent.artifact) < squares(with_residual(base, left), base)
        odd = Artifact({**alike(base), "b.weight": np.full(SIZE, np.nan, "f4")})
        assert np.isnan(send(odd, base, rounding, Feedback(), None).artifact["b.weight"]).all()


def test_what_is_dithered_is_taken_as_it_is():
    base = model()
    rounding = Rounding(kind="grid", dither=5)
    assert send(alike(base), base, rounding, Feedback(decay=0), None).loss.halvings == 0


def test_the_least_share_is_an_argument_and_the_default_is_not_told():
    assert "least" not in Rounding(kind="grid").to_json(), "a client of an older release knows no such key"
    assert lossy_of("grid", {"least": 0.4}).at(1).least == 0.4
    assert Lossy(name="topk").at(1).least == LEAST
    for wrong in (-0.1, 1, float("nan")):
        with pytest.raises(CodecError, match="least is"):
            lossy_of("topk", {"least": wrong})
    with pytest.raises(CodecError):
        lossy_of("grid", {"least": "much"})
