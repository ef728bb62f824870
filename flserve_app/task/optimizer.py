"""What optimizers have in common: they go over the parameters, add a proximal term, and clear the gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Optimizer(ABC):
    """Moves the parameters of a module.

    Args:
        module: Whose parameters are stepped; those that are frozen now stay so.
        lr: Learning rate.
        proximal: mu of FedProx (Li et al., arXiv:1812.06127): adds mu/2 * ||w - w_start||^2 to the loss,
            where w_start are the parameters now.
    """

    def __init__(self, module: nn.Module, *, lr: float, proximal: float = 0.0) -> None:
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._lr = lr
        self._proximal = proximal
        self._starts = [parameter.detach().clone() for parameter in self._parameters] if proximal else []

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters against their gradients, and clear these."""
        for index, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            if self._proximal:
                gradient = gradient.add(parameter - self._starts[index], alpha=self._proximal)
            self._move(index, parameter, gradient)
            parameter.grad = None

    @abstractmethod
    def _move(self, index: int, parameter: nn.Parameter, gradient: torch.Tensor) -> None:
        """Move one parameter, the `index`-th, by its gradient."""
