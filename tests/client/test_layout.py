import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.artifact import Artifact
from flserve_app.client.layout import layout_of, parse_layout
from flserve_app.errors import ArtifactError, DeliveryError

HISTORY = "0123456789abcdef" * 2
MODEL = Artifact(
    {name: np.full(2, at, "<u2") for at, name in enumerate("abcdef")},
    dtypes=dict.fromkeys("ace", "bfloat16"),
)


@given(st.sets(st.sampled_from("abcdef"), min_size=1))
def test_a_model_is_the_same_after_it_was_parted_and_put_together(private):
    layout = layout_of(MODEL, private, HISTORY)
    shared, own = layout.parted(MODEL)
    assert set(own) == private == set(layout.names)
    assert set(shared) == set(MODEL) - private
    assert own.digest == layout.start
    assert layout.nbytes == own.nbytes
    assert layout.whole(shared, own) == MODEL


def test_a_layout_comes_back_from_its_json_and_has_a_key_of_its_own():
    layout = layout_of(MODEL, "ad", HISTORY)
    assert parse_layout(layout.to_json()) == layout
    others = [layout_of(MODEL, "ae", HISTORY), layout_of(MODEL, "ad", HISTORY[::-1])]
    assert len({layout.key, *(other.key for other in others)}) == 3


def test_a_tensor_cannot_be_private_and_shared():
    layout = layout_of(MODEL, "a", HISTORY)
    with pytest.raises(ArtifactError, match="'a' is private, and among the shared ones as well"):
        layout.whole(MODEL, layout.parted(MODEL)[1])


GOOD = json.loads(layout_of(MODEL, "ad", HISTORY).to_json())


@pytest.mark.parametrize(
    "wrong",
    [
        {"history": "../../x"},
        {"history": 3},
        {"start": "ab"},
        {"tensors": []},
        {"tensors": [[1, "a", "float32", [2]], [0, "b", "float32", [2]]]},
        {"tensors": [[0, "a", "float32", [2]], [0, "b", "float32", [2]]]},
        {"tensors": [[0, "a", "float32", [2]], [1, "a", "float32", [2]]]},
        {"tensors": [[-1, "a", "float32", [2]]]},
        {"tensors": [[1.5, "a", "float32", [2]]]},
        {"tensors": [[0, "a", "object", [2]]]},
        {"tensors": [[0, "a", "float32", [-2]]]},
        {"tensors": [[0, "a", "float32", ["x"]]]},
        {"tensors": [[0, "a"]]},
        {"tensors": 3},
    ],
)
def test_malformed_layouts_are_refused(wrong):
    with pytest.raises(DeliveryError, match="layout"):
        parse_layout(json.dumps({**GOOD, **wrong}))


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, "x" * (5 << 20)])
def test_what_is_no_layout_is_refused(text):
    with pytest.raises(DeliveryError, match="layout"):
        parse_layout(text)
