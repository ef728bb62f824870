import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from flserve_app.artifact import DTYPES, Artifact
from flserve_app.errors import TaskError
from flserve_app.task.models import build_model
from flserve_app.task.state import load_into, to_artifact, to_state_dict


@st.composite
def artifacts(draw):
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.storage.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "bool":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, dtype.storage).reshape(shape)
    return Artifact({"tensor": array}, dtypes={"tensor": dtype.name})


@pytest.mark.slow
@given(artifacts())
def test_torch_keeps_every_bit_both_ways(artifact):
    state = to_state_dict(artifact)
    assert str(state["tensor"].dtype) == f"torch.{artifact.specs['tensor'].dtype}"
    assert to_artifact(state) == artifact


def test_order_and_names_are_those_of_the_state_dict():
    model = build_model("cnn", input_shape=(1, 8, 8), classes=3, seed=0, width=2, norm=True)
    artifact = to_artifact(model)
    assert list(artifact) == list(model.state_dict())
    assert artifact["1.num_batches_tracked"].shape == ()
    assert artifact["1.num_batches_tracked"].dtype == np.int64


def test_views_are_taken_as_they_look():
    tensor = torch.arange(6.0).reshape(2, 3).T
    assert to_artifact({"t": tensor})["t"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert to_artifact({"c": torch.tensor([1 + 2j]).conj()})["c"].tolist() == [1 - 2j]


def test_artifact_and_module_share_no_memory():
    model = build_model("mlp", input_shape=(4,), classes=2, seed=0)
    artifact = to_artifact(model)
    before = artifact.digest
    with torch.no_grad():
        model[1].weight.zero_()
    load_into(model, artifact)
    for tensor in to_state_dict(artifact).values():
        tensor.zero_()
    assert Artifact(dict(artifact)).digest == before
    assert to_artifact(model).digest == before


def test_load_into_takes_all_or_nothing():
    model = build_model("mlp", input_shape=(4,), classes=2, seed=0)
    before = to_artifact(model)
    other = to_artifact(build_model("mlp", input_shape=(4,), classes=2, seed=1))
    with pytest.raises(
        TaskError, match=r"tensor '3.bias': the model has float32 \(2,\), the artifact has float64 \(2,\)"
    ):
        load_into(model, Artifact({**other, "3.bias": np.zeros(2)}))
    assert to_artifact(model) == before
    load_into(model, other)
    assert to_artifact(model) == other


def test_load_into_names_what_does_not_fit():
    model = build_model("mlp", input_shape=(4,), classes=2, seed=0)
    state = dict(to_artifact(model))
    with pytest.raises(TaskError, match=r"tensor '1.weight': .* float32 \(64, 4\), the artifact has float32 \(4, 64\)"):
        load_into(model, Artifact({**state, "1.weight": np.zeros((4, 64), np.float32)}))
    del state["3.bias"]
    with pytest.raises(TaskError, match=r"it lacks '3\.bias' and has nothing besides"):
        load_into(model, Artifact(state))
    extra = {f"x{number}": np.zeros(1) for number in range(5)}
    with pytest.raises(TaskError, match=r"it lacks '3\.bias' and has 'x0', 'x1', 'x2' and 2 more besides"):
        load_into(model, Artifact({**state, **extra}))


def test_bfloat16_modules_load():
    model = nn.Linear(3, 2).to(torch.bfloat16)
    artifact = to_artifact(model)
    assert artifact.specs["weight"].dtype == "bfloat16"
    fresh = nn.Linear(3, 2).to(torch.bfloat16)
    load_into(fresh, artifact)
    assert torch.equal(fresh.weight, model.weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": 1}, "state 's' is a dict, not a tensor"),
        (torch.zeros(2, dtype=torch.float8_e5m2), "tensor 's': torch.float8_e5m2 in layout torch.strided has no form"),
        (torch.zeros(2).to_sparse(), "tensor 's': torch.float32 in layout torch.sparse_coo has no form in numpy"),
    ],
)
def test_what_numpy_cannot_hold_is_refused(value, message):
    with pytest.raises(TaskError, match=message):
        to_artifact({"s": value})
