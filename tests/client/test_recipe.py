import json
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.client.recipe import Recipe, parse_recipe, recipe_of
from flserve_app.errors import DeliveryError
from flserve_app.store import Serving

RECIPE = Recipe(
    model_id="cnn",
    arguments={"width": 16, "norm": False},
    seed=7,
    input_shape=(1, 28, 28),
    input_dtype="float32",
    classes=10,
)


def test_a_recipe_comes_back_as_it_was():
    found = parse_recipe(RECIPE.to_json())
    assert found == RECIPE
    assert found.arguments["norm"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": "os.system('x')"}, "is no plain name"),
        ({"model_id": ""}, "'' is no plain name"),
        ({"model_id": 3}, "3 is no plain name"),
        ({"arguments": {"a b": 1}}, "'a b' is no plain name"),
        ({"arguments": {f"a{at}": 1 for at in range(33)}}, "33 arguments, at most 32"),
        ({"arguments": {"width": "16"}}, "'16' is no number it may have"),
        ({"arguments": {"width": 1.5}}, "1.5 is no number it may have"),
        ({"arguments": {"width": -1}}, "-1 is no number it may have"),
        ({"arguments": {"width": 1 << 31}}, "2147483648 is no number it may have"),
        ({"arguments": {"width": [1]}}, "[1] is no number it may have"),
        ({"input_shape": [1] * 9}, "an input of 9 dimensions"),
        ({"input_shape": [1 << 40]}, "is no number it may have"),
        ({"classes": None}, "None is no number it may have"),
        ({"seed": -1}, "seed -1"),
        ({"seed": True}, "seed True"),
        ({"seed": 1 << 64}, "seed 18446744073709551616"),
        ({"code": "import os"}, "malformed"),
        ({"input_shape": 3}, "malformed"),
        ({"arguments": None}, "malformed"),
    ],
)
def test_what_is_out_of_bounds_is_refused(change, message):
    with pytest.raises(DeliveryError, match=re.escape(message)):
        parse_recipe(json.dumps({**json.loads(RECIPE.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", "null", "[" * 4000, '{"model_id": 1}'])
def test_what_is_no_recipe_is_refused(text):
    with pytest.raises(DeliveryError, match="recipe: malformed"):
        parse_recipe(text)


def test_a_recipe_is_short():
    with pytest.raises(DeliveryError, match="5000 characters, at most 4096"):
        parse_recipe(" " * 5000)


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_nothing_else_happens_whatever_is_sent(text):
    with suppress(DeliveryError):
        parse_recipe(text)


def serving(**fields):
    described = {
        "model_id": "cnn",
        "arguments": {"width": 16, "norm": False},
        "inputs": ({"name": "input", "dtype": "float32", "shape": [None, 1, 28, 28]},),
        "classes": tuple("0123456789"),
        "seed": 7,
    }
    return Serving(**{**described, **fields})


def test_what_serving_takes_is_a_recipe_if_it_has_a_seed():
    assert recipe_of(serving()) == RECIPE
    assert recipe_of(serving(seed=None)) is None
    assert recipe_of(None) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": ()},
        {"inputs": ({"dtype": "float32"},)},
        {"inputs": ("input",)},
        {"arguments": {"path": "weights.bin"}},
        {"model_id": "my model"},
        {"seed": -1},
    ],
)
def test_what_cannot_be_built_is_no_recipe(fields):
    assert recipe_of(serving(**fields)) is None
