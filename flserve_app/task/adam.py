"""Adam, afresh in each round.

The steps are those of `torch.optim.Adam` with its defaults, but for the order of a few operations; why it is not that
one stands in `sgd`. Source: Kingma and Ba, "Adam", arXiv:1412.6980.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from flserve_app.task.optimizer import Optimizer

_MEANS, _SQUARES = 0.9, 0.999  # shares of the moments that are kept
_EPSILON = 1e-8


@final
class Adam(Optimizer):
    """Steps of about the same size for every parameter, against its gradient, with a proximal term.

    Args:
        module: As of `Optimizer`.
        lr: Learning rate.
        proximal: As of `Optimizer`.
    """

    def __init__(self, module: nn.Module, *, lr: float, proximal: float = 0.0) -> None:
        super().__init__(module, lr=lr, proximal=proximal)
        self._moments: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def _move(self, index: int, parameter: nn.Parameter, gradient: torch.Tensor) -> None:
        none = torch.zeros_like(parameter), torch.zeros_like(parameter), 0
        mean, square, steps = self._moments.get(index, none)
        mean.lerp_(gradient, 1 - _MEANS)
        square.mul_(_SQUARES).addcmul_(gradient, gradient, value=1 - _SQUARES)
        self._moments[index] = mean, square, (steps := steps + 1)
        size = (square.sqrt() / (1 - _SQUARES**steps) ** 0.5).add_(_EPSILON)
        parameter.addcdiv_(mean, size, value=-self._lr / (1 - _MEANS**steps))
