import json

import numpy as np
import pytest
import torch
from torch import nn

from flserve_app.errors import TaskError
from flserve_app.store.version import Serving
from flserve_app.task.initial import draw_weights
from flserve_app.task.models import build_model, initial_artifact, model_arguments, model_spec


def build(name="mlp", input_shape=(1, 8, 8), classes=10, seed=42, **arguments):
    return build_model(name, input_shape=input_shape, classes=classes, seed=seed, **arguments)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "input_shape", "arguments", "parameters"),
    [
        ("mlp", (32,), {}, 32 * 64 + 64 + 64 * 10 + 10),
        ("mlp", (1, 8, 8), {"hidden": 8}, 64 * 8 + 8 + 8 * 10 + 10),
        ("cnn", (1, 28, 28), {}, 215_370),
        ("cnn", (1, 28, 28), {"width": 32}, 1_663_370),
        ("cnn", (1, 28, 28), {"norm": True}, 215_370 + 2 * 16 + 2 * 32),
        ("cnn", (3, 8, 8), {}, 31_850),
    ],
)
def test_models_take_a_batch_to_logits(name, input_shape, arguments, parameters):
    model = build(name, input_shape, **arguments)
    assert count(model) == parameters
    assert model(torch.zeros(2, *input_shape)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "input_shape", "arguments", "digest"),
    [
        ("mlp", (32,), {}, "2eb6cc9e1b640d279ad2a5d065b9b410ea003a49f59f986489f544cbe55098fb"),
        ("cnn", (1, 8, 8), {}, "36ac03cd46d903ad52f79a73220d0db1b8da735231090c9e423fb5e422bb1a9d"),
        (
            "cnn",
            (1, 8, 8),
            {"width": 4, "norm": True},
            "641565e9fa66854296e4cf5cbbf5e40a1cc7dd43de4a8e6e8d9df9fb44e98b6e",
        ),
    ],
)
def test_a_seed_means_the_same_weights_everywhere(name, input_shape, arguments, digest):
    assert initial_artifact(build(name, input_shape, **arguments)).digest == digest


def test_another_seed_gives_other_weights():
    assert initial_artifact(build(seed=1)) != initial_artifact(build(seed=2))


def test_weights_are_uniform_within_torchs_default_bounds():
    for name, values in initial_artifact(build("cnn", (1, 28, 28))).items():
        fan_in = {"0": 25, "3": 400, "7": 1568, "9": 128}[name.split(".")[0]]
        assert np.abs(values).max() <= 1 / np.sqrt(fan_in)
        assert values.std() == pytest.approx(1 / np.sqrt(3 * fan_in), rel=0.6 if values.size < 100 else 0.05)


def test_norm_layers_keep_their_constants():
    state = build("cnn", width=4, norm=True).state_dict()
    assert state["1.weight"].tolist() == [1, 1, 1, 1]
    assert state["1.running_var"].tolist() == [1, 1, 1, 1]
    assert state["1.running_mean"].tolist() == [0, 0, 0, 0]
    assert state["1.num_batches_tracked"] == 0


def test_building_leaves_torchs_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    build()
    assert torch.equal(torch.rand(1), expected)


def test_a_layer_without_a_rule_is_refused():
    with pytest.raises(TaskError, match="layer '1': there is no rule for the initial weights of a Embedding"):
        draw_weights(nn.Sequential(nn.ReLU(), nn.Embedding(2, 3)), seed=0)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("vgg", {}, "unknown model 'vgg'; known: mlp, cnn"),
        ("mlp", {"width": 4}, "model 'mlp' has no argument 'width'; known: hidden"),
        ("mlp", {"hidden": 0}, "model 'mlp': hidden must be an integer of 1 or more, found 0"),
        ("mlp", {"hidden": True}, "hidden must be an integer of 1 or more, found True"),
        ("cnn", {"norm": 1}, "norm must be true or false, found 1"),
        ("cnn", {"input_shape": (64,)}, r"model 'cnn' cannot take inputs of shape \(64,\) to 10 classes"),
        ("mlp", {"input_shape": (0,)}, r"model 'mlp' cannot take inputs of shape \(0,\)"),
        ("mlp", {"classes": 0}, "to 0 classes"),
        ("cnn", {"input_shape": (1, 3, 3)}, "model 'cnn' takes images of 4x4 pixels or more, found 3x3"),
        ("cnn", {"width": 10_000}, r"model 'cnn' would have \d+ parameters, at most 2147483648 are allowed"),
        ("mlp", {"hidden": 1 << 70}, "model 'mlp' cannot be built with"),
    ],
)
def test_what_cannot_be_built_is_refused(name, values, message):
    with pytest.raises(TaskError, match=message):
        build(name, **values)


def test_defaults_complete_the_arguments():
    assert model_arguments("cnn", {"norm": True}) == {"width": 16, "norm": True}


def test_the_spec_says_what_serving_takes():
    spec = model_spec("mlp", input_shape=(32,), classes=("a", "b"), preprocessing={"scale": 1.0}, hidden=8)
    assert json.loads(json.dumps(spec)) == {
        "model_id": "mlp",
        "arguments": {"hidden": 8},
        "inputs": [{"name": "input", "dtype": "float32", "shape": [None, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 2]}],
        "classes": ["a", "b"],
        "preprocessing": {"scale": 1.0},
    }
    assert Serving(**spec).model_id == "mlp"
