"""Initial weights that are the same everywhere.

They come from numpy's frozen stream, in the order of the state dict, so a model id, its arguments and a seed
are a recipe for `v0`: whoever has them needs no download. Linear and convolution layers get torch's default
distribution, embeddings that of a linear layer as wide as they are; norm layers keep the constants they are made
with. A layer without a rule here is refused.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from flserve_app.errors import TaskError
from flserve_app.task.seeds import stream

_DRAWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
_CONSTANT = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def draw_weights(model: nn.Module, seed: int) -> None:
    """Overwrite the weights and biases of a model, in place.

    Each is uniform on +-1/sqrt(fan_in), which is what torch draws from by default (Kaiming uniform with
    a = sqrt(5); LeCun et al., "Efficient BackProp", 1998).

    Raises:
        TaskError: If a layer has parameters and no rule.
    """
    random = stream(seed, "weights")
    for name, layer in model.named_modules():
        own = list(layer.parameters(recurse=False))
        if isinstance(layer, _DRAWN):
            bound = 1.0 / math.sqrt(layer.weight[0].numel())
            for parameter in own:
                _fill(parameter, random, bound)
        elif own and not isinstance(layer, _CONSTANT):
            raise TaskError(f"layer {name!r}: there is no rule for the initial weights of a {type(layer).__name__}")


@torch.no_grad()
def _fill(parameter: nn.Parameter, random: np.random.RandomState, bound: float) -> None:
    # Not `random.uniform`: its compiled loop may fuse multiply and add, which rounds differently on ARM.
    values = (2.0 * random.random_sample(tuple(parameter.shape)) - 1.0) * bound
    parameter.copy_(torch.from_numpy(values.astype(np.float32)))
