"""Plain SGD.

It takes the same steps as `torch.optim.SGD`, to the bit, whose first use in a process imports 800 modules
(0.85 s): more than a client's whole round, where each message gets a fresh process.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from flserve_app.task.optimizer import Optimizer


@final
class Sgd(Optimizer):
    """Gradient steps on the parameters of a module, with momentum and a proximal term.

    Args:
        module: As of `Optimizer`.
        lr: Learning rate.
        momentum: Share of the last step's direction that is kept.
        proximal: As of `Optimizer`.
    """

    def __init__(self, module: nn.Module, *, lr: float, momentum: float = 0.0, proximal: float = 0.0) -> None:
        super().__init__(module, lr=lr, proximal=proximal)
        self._momentum = momentum
        self._velocities: dict[int, torch.Tensor] = {}

    def _move(self, index: int, parameter: nn.Parameter, gradient: torch.Tensor) -> None:
        direction = self._with_momentum(index, gradient) if self._momentum else gradient
        parameter.add_(direction, alpha=-self._lr)

    def _with_momentum(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        """Return velocity * momentum + gradient, which is the velocity from now on."""
        if index in self._velocities:
            self._velocities[index].mul_(self._momentum).add_(gradient)
        else:
            self._velocities[index] = gradient.clone()
        return self._velocities[index]
