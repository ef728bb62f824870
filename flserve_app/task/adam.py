"""Adam, afresh in each round.

The steps are those of `torch.optim.Adam` with its defaults, but for the order of a few operations; why it is not that
one stands in `sgd`. Source: Kingma and Ba, "Adam", arXiv:1412.6980.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn

_MEANS, _SQUARES = 0.9, 0.999  # shares of the moments that are kept
_EPSILON = 1e-8


@final
class Adam:
    """Steps of about the same size for every parameter, against its gradient, with a proximal term.

    Args:
        module: Whose parameters are stepped; those that are frozen now stay so.
        lr: Learning rate.
        proximal: mu of FedProx, as of `Sgd`.
    """

    def __init__(self, module: nn.Module, *, lr: float, proximal: float = 0.0) -> None:
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._lr = lr
        self._proximal = proximal
        self._starts = [parameter.detach().clone() for parameter in self._parameters] if proximal else []
        self._moments: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters against their gradients, and clear these."""
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if self._proximal:
                gradient = gradient.add(parameter - self._starts[index], alpha=self._proximal)
            mean, square, steps = self._moments.get(
                index, (torch.zeros_like(parameter), torch.zeros_like(parameter), 0)
            )
            mean.lerp_(gradient, 1 - _MEANS)
            square.mul_(_SQUARES).addcmul_(gradient, gradient, value=1 - _SQUARES)
            self._moments[index] = mean, square, (steps := steps + 1)
            size = (square.sqrt() / (1 - _SQUARES**steps) ** 0.5).add_(_EPSILON)
            parameter.addcdiv_(mean, size, value=-self._lr / (1 - _MEANS**steps))
            parameter.grad = None
