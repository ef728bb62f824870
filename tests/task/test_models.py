import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from flserve_app.errors import TaskError
from flserve_app.store.version import Serving
from flserve_app.task.initial import draw_weights
from flserve_app.task.models import build_model, initial_artifact, model_arguments, model_spec


def build(name="mlp", input_shape=(1, 8, 8), classes=10, seed=42, **arguments):
    return build_model(name, input_shape=input_shape, classes=classes, seed=seed, **arguments)


def transformer(context=32, classes=64, **arguments):
    return build("chartransformer", (context,), classes, input_dtype="int64", **arguments)


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
        ("resnet", (1, 28, 28), {}, 77_562),
        ("resnet", (3, 8, 8), {"width": 4, "blocks": 2}, 11_326),
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
        ("resnet", (1, 8, 8), {}, "8a0f1de6e290aef375b192dbe9133c13b97b1112c8dacd029a94597db82ee339"),
        (
            "resnet",
            (3, 28, 28),
            {"width": 4, "blocks": 2},
            "6897c04ad6790d8117301697780bf9b463898b551008b3e6f506e6e5398cab99",
        ),
        (
            "chartransformer",
            (8,),
            {"width": 8, "heads": 2, "layers": 1, "classes": 64, "input_dtype": "int64"},
            "391d9787b96616ce7b6c983a5a5b5e0599d8712b593541647ffc259edae94be7",
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
    with pytest.raises(TaskError, match="layer '1': there is no rule for the initial weights of a Bilinear"):
        draw_weights(nn.Sequential(nn.ReLU(), nn.Bilinear(2, 3, 4)), seed=0)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("vgg", {}, "unknown model 'vgg'; known: mlp, cnn, resnet, chartransformer"),
        ("mlp", {"width": 4}, "model 'mlp' has no argument 'width'; known: hidden"),
        ("mlp", {"hidden": 0}, "model 'mlp': hidden must be an integer of 1 or more, found 0"),
        ("mlp", {"hidden": True}, "hidden must be an integer of 1 or more, found True"),
        ("cnn", {"norm": 1}, "norm must be true or false, found 1"),
        ("cnn", {"input_shape": (64,)}, r"shape \(64,\) to 10 classes; what takes such inputs: mlp$"),
        ("mlp", {"input_shape": (0,)}, r"model 'mlp' cannot take inputs of shape \(0,\)"),
        ("mlp", {"classes": 0}, "to 0 classes"),
        ("cnn", {"input_shape": (1, 3, 3)}, "model 'cnn' takes images of 4x4 pixels or more, found 3x3"),
        ("cnn", {"width": 10_000}, r"model 'cnn' would have \d+ parameters, at most 2147483648 are allowed"),
        ("resnet", {"input_shape": (1, 8, 7)}, "model 'resnet' takes images of 8x8 pixels or more, found 8x7"),
        ("resnet", {"blocks": 65}, "model 'resnet': blocks is 65, at most 64 are allowed"),
        ("chartransformer", {"input_shape": (8,)}, "model 'chartransformer' takes int64 inputs, the task has float32"),
        ("mlp", {"input_dtype": "int64"}, "model 'mlp' takes float32 inputs, the task has int64"),
        ("mlp", {"hidden": 1 << 70}, "model 'mlp' cannot be built with"),
    ],
)
def test_what_cannot_be_built_is_refused(name, values, message):
    with pytest.raises(TaskError, match=message):
        build(name, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 10}, "model 'chartransformer': width 10 cannot be shared out to 4 heads"),
        ({"layers": 257}, "model 'chartransformer': layers is 257, at most 256 are allowed"),
        ({"input_shape": (1, 8, 8)}, r"model 'chartransformer' cannot take inputs of shape \(1, 8, 8\)"),
    ],
)
def test_a_transformer_that_cannot_be_built_is_refused(values, message):
    with pytest.raises(TaskError, match=message):
        build("chartransformer", **{"input_shape": (8,), "input_dtype": "int64", **values})


def test_a_transformer_takes_windows_to_logits():
    model = transformer()
    assert count(model) == 110_400
    assert model(torch.zeros(3, 32, dtype=torch.int64)).shape == (3, 64)


def test_a_transformer_sees_every_place_and_their_order():
    model = transformer(context=6, width=8, heads=2)
    window = torch.arange(6)[None]
    expected = model(window)
    for place in range(6):
        changed = window.clone()
        changed[0, place] = 9
        assert not torch.allclose(model(changed), expected)
    assert not torch.allclose(model(window[:, [1, 0, 2, 3, 4, 5]]), expected)


def test_attention_is_that_of_torch():
    layer = transformer(context=6, width=8, heads=2).layers[0]
    query, key, value = torch.rand(3, 2, 6, 8)
    theirs = functional.scaled_dot_product_attention(
        *(part.view(2, 6, 2, 4).transpose(1, 2) for part in (query, key, value))
    )
    assert torch.allclose(layer._attend(query, key, value), theirs.transpose(1, 2).reshape(2, 6, 8), atol=1e-6)


@pytest.mark.parametrize("number", [-1, 64])
def test_a_number_that_is_no_character_is_refused(number):
    with pytest.raises(TaskError, match="model 'chartransformer': a character number is not in 0 to 63"):
        transformer()(torch.full((1, 32), number))


def test_a_residual_network_takes_the_last_example_of_an_epoch_alone():
    model = build("resnet", width=2)
    assert torch.isfinite(model.train()(torch.rand(1, 1, 8, 8))).all()
    assert model.blocks[0].norm1.num_batches_tracked == 1


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
    tokens = model_spec("chartransformer", input_shape=(32,), classes=("a",), preprocessing={})
    assert tokens["inputs"] == [{"name": "input", "dtype": "int64", "shape": [None, 32]}]
