"""The models that a name and a few arguments stand for.

A name, arguments and a seed rebuild a model bit for bit (see `initial`), so arguments are plain integers and
booleans with bounds: they may come from a config, a stored version or a recipe that was sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from flserve_app.artifact import Artifact
from flserve_app.errors import TaskError
from flserve_app.task.chartransformer import CharTransformer
from flserve_app.task.initial import draw_weights
from flserve_app.task.resnet import ResNet
from flserve_app.task.state import to_artifact

MAX_PARAMETERS = 1 << 31
MAX_LAYERS = 1 << 10

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    """One kind of model.

    Attributes:
        build: Takes `input_shape`, `classes` and the arguments; returns the module with any weights.
        rank: Dimensions an input has without the batch; None takes any.
        dtype: Inputs it takes, `float32` or `int64`.
        defaults: Every argument with its default; an argument has the type of its default.
        repeated: The argument that says how many layers are made, one after the other, before any is counted.
    """

    build: Callable[..., nn.Module]
    rank: int | None
    defaults: Mapping[str, int | bool]
    dtype: str = "float32"
    repeated: str = ""


def _mlp(*, input_shape: Shape, classes: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))


def _conv_block(channels_in: int, channels_out: int, norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(channels_in, channels_out, kernel_size=5, padding=2)]
    if norm:
        layers.append(nn.BatchNorm2d(channels_out))
    return [*layers, nn.ReLU(), nn.MaxPool2d(2)]


def _cnn(*, input_shape: Shape, classes: int, width: int, norm: bool) -> nn.Module:
    """Two 5x5 convolutions and two linear layers (McMahan et al., arXiv:1602.05629, is width 32).

    On 28x28 images, width 16 has 215,370 parameters and width 32 has 1,663,370.
    """
    channels, height, breadth = input_shape
    if min(height, breadth) < 4:
        raise TaskError(f"model 'cnn' takes images of 4x4 pixels or more, found {height}x{breadth}")
    hidden = max(1, width * width // 2)
    return nn.Sequential(
        *_conv_block(channels, width, norm),
        *_conv_block(width, 2 * width, norm),
        nn.Flatten(),
        nn.Linear(2 * width * (height // 4) * (breadth // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def _resnet(*, input_shape: Shape, classes: int, width: int, blocks: int) -> nn.Module:
    return ResNet(input_shape, classes, width=width, blocks=blocks)


def _chartransformer(*, input_shape: Shape, classes: int, width: int, heads: int, layers: int) -> nn.Module:
    return CharTransformer(input_shape[0], classes, width=width, heads=heads, layers=layers)


MODELS: Mapping[str, ModelKind] = MappingProxyType(
    {
        "mlp": ModelKind(build=_mlp, rank=None, defaults=MappingProxyType({"hidden": 64})),
        "cnn": ModelKind(build=_cnn, rank=3, defaults=MappingProxyType({"width": 16, "norm": False})),
        "resnet": ModelKind(
            build=_resnet, rank=3, defaults=MappingProxyType({"width": 16, "blocks": 1}), repeated="blocks"
        ),
        "chartransformer": ModelKind(
            build=_chartransformer,
            rank=1,
            defaults=MappingProxyType({"width": 64, "heads": 4, "layers": 2}),
            dtype="int64",
            repeated="layers",
        ),
    }
)


def build_model(
    name: str,
    *,
    input_shape: Shape,
    classes: int,
    seed: int,
    input_dtype: str = "float32",
    **arguments: int | bool,
) -> nn.Module:
    """Return a model with its initial weights; a pure function of the arguments.

    Args:
        name: A key of `MODELS`.
        input_shape: Shape of one input, without the batch dimension.
        classes: Number of classes, which is the length of the output.
        seed: Decides the initial weights.
        input_dtype: `float32` or `int64`, as the task has them.
        arguments: Those of the model kind; what is left out has its default.

    Raises:
        TaskError: If the name or an argument is unknown, a value is out of its range, or the model is too big.
    """
    kind, resolved = _resolved(name, input_shape, classes, input_dtype, arguments)
    _count(name, kind, input_shape=input_shape, classes=classes, **resolved)
    # Modules draw throw-away weights when they are made; the caller's stream is not to notice.
    with torch.random.fork_rng(devices=[]):
        model = kind.build(input_shape=input_shape, classes=classes, **resolved)
    draw_weights(model, seed)
    return model


def model_nbytes(
    name: str,
    *,
    input_shape: Shape,
    classes: int,
    input_dtype: str = "float32",
    **arguments: int | bool,
) -> int:
    """Return the bytes of a model's state, parameters and buffers, without building it.

    Args:
        name: A key of `MODELS`.
        input_shape: As for `build_model`.
        classes: As for `build_model`.
        input_dtype: As for `build_model`.
        arguments: As for `build_model`.

    Raises:
        TaskError: As `build_model`.
    """
    kind, resolved = _resolved(name, input_shape, classes, input_dtype, arguments)
    return _count(name, kind, input_shape=input_shape, classes=classes, **resolved)


def model_arguments(name: str, arguments: Mapping[str, int | bool]) -> dict[str, int | bool]:
    """Return all arguments of a model kind, with defaults where none are given.

    Raises:
        TaskError: If the name or an argument is unknown, or a value has the wrong type or is out of its range.
    """
    if name not in MODELS:
        raise TaskError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    defaults = MODELS[name].defaults
    for key, value in arguments.items():
        if key not in defaults:
            raise TaskError(f"model {name!r} has no argument {key!r}; known: {', '.join(defaults)}")
        # Compared by type: True is an int to Python, and `hidden=true` would build a model of one unit.
        if type(value) is not type(defaults[key]) or (not isinstance(value, bool) and value < 1):
            expected = "true or false" if isinstance(defaults[key], bool) else "an integer of 1 or more"
            raise TaskError(f"model {name!r}: {key} must be {expected}, found {value!r}")
        if key == MODELS[name].repeated and value > MAX_LAYERS:
            raise TaskError(f"model {name!r}: {key} must be at most {MAX_LAYERS}, found {value}")
    return {**defaults, **arguments}


def model_spec(
    name: str,
    *,
    input_shape: Shape,
    classes: tuple[str, ...],
    preprocessing: Mapping[str, Any],
    **arguments: int | bool,
) -> dict[str, Any]:
    """Return what it takes to serve a model, as JSON-able values.

    Returns:
        `model_id` and `arguments` (complete), `inputs` and `outputs` (for each name, dtype, and shape with None
        for the batch), `classes` (names, in the order of the output) and `preprocessing`.

    Raises:
        TaskError: As `model_arguments`.
    """
    return {
        "model_id": name,
        "arguments": model_arguments(name, arguments),
        "inputs": [{"name": "input", "dtype": MODELS[name].dtype, "shape": [None, *input_shape]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, len(classes)]}],
        "classes": list(classes),
        "preprocessing": dict(preprocessing),
    }


def initial_artifact(model: nn.Module) -> Artifact:
    """Return the model's state, as it is published as `v0` when it comes from `build_model`."""
    return to_artifact(model)


def _resolved(
    name: str, input_shape: Shape, classes: int, input_dtype: str, arguments: Mapping[str, int | bool]
) -> tuple[ModelKind, dict[str, int | bool]]:
    resolved = model_arguments(name, arguments)
    kind = MODELS[name]
    if kind.rank not in (None, len(input_shape)) or any(size < 1 for size in (*input_shape, classes)):
        other = _others(input_shape, input_dtype)
        raise TaskError(f"model {name!r} cannot take inputs of shape {input_shape} to {classes} classes{other}")
    if kind.dtype != input_dtype:
        other = _others(input_shape, input_dtype)
        raise TaskError(f"model {name!r} takes {kind.dtype} inputs, the task has {input_dtype}{other}")
    return kind, resolved


def _others(input_shape: Shape, input_dtype: str) -> str:
    """Return the hint which models take such inputs; nothing if none does."""
    fit = (name for name, kind in MODELS.items() if kind.rank in (None, len(input_shape)) and kind.dtype == input_dtype)
    names = ", ".join(fit)
    return f"; what takes such inputs: {names}" if names and all(size >= 1 for size in input_shape) else ""


def _count(name: str, kind: ModelKind, **arguments: Any) -> int:
    """Return the bytes of a model's state, counted on the meta device, which allocates nothing."""
    try:
        with torch.device("meta"):
            model = kind.build(**arguments)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        nbytes: int = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    except (RuntimeError, OverflowError, TypeError) as error:
        raise TaskError(f"model {name!r} cannot be built with {arguments}: {error}") from error
    if parameters > MAX_PARAMETERS:
        raise TaskError(f"model {name!r} would have {parameters} parameters, at most {MAX_PARAMETERS} are allowed")
    return nbytes
