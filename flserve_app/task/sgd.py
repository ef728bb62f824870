"""Plain SGD.

It takes the same steps as `torch.optim.SGD`, to the bit, whose first use in a process imports 800 modules
(0.85 s): more than a client's whole round, where each message gets a fresh process.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn


@final
class Sgd:
    """Gradient steps on the parameters of a module, with momentum and a proximal term.

    Args:
        module: Whose parameters are stepped; those that are frozen now stay so.
        lr: Learning rate.
        momentum: Share of the last step's direction that is kept.
        proximal: mu of FedProx (Li et al., arXiv:1812.06127): adds mu/2 * ||w - w_start||^2 to the loss,
            where w_start are the parameters now.
    """

    def __init__(self, module: nn.Module, *, lr: float, momentum: float = 0.0, proximal: float = 0.0) -> None:
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._lr = lr
        self._momentum = momentum
        self._proximal = proximal
        self._starts = [parameter.detach().clone() for parameter in self._parameters] if proximal else []
        self._velocities: dict[int, torch.Tensor] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters against their gradients, and clear these."""
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            direction = parameter.grad
            if self._proximal:
                direction = direction.add(parameter - self._starts[index], alpha=self._proximal)
            if self._momentum:
                direction = self._with_momentum(index, direction)
            parameter.add_(direction, alpha=-self._lr)
            parameter.grad = None

    def _with_momentum(self, index: int, gradient: torch.Tensor) -> torch.Tensor:
        """Return velocity * momentum + gradient, which is the velocity from now on."""
        if index in self._velocities:
            self._velocities[index].mul_(self._momentum).add_(gradient)
        else:
            self._velocities[index] = gradient.clone()
        return self._velocities[index]
