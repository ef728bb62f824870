"""Training, evaluation and prediction on one client's examples.

Everything random comes from the `seed` argument, and the caller's random state is left as it was. Results
repeat bit for bit for one number of threads: callers set `torch.set_num_threads(1)`. Batches are slices of
tensors; loaders and workers would cost more than these models do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from flserve_app.errors import TaskError
from flserve_app.task.adam import Adam
from flserve_app.task.dataset import Examples, Inputs
from flserve_app.task.seeds import derived_seed, stream
from flserve_app.task.sgd import Sgd

Floats = npt.NDArray[np.float32]


def train(
    module: nn.Module,
    examples: Examples,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    momentum: float = 0.0,
    seed: int,
    proximal: float = 0.0,
    optimizer: str = "sgd",
) -> dict[str, float]:
    """Train a module in place: cross entropy, SGD or Adam, rows in a new order each epoch.

    Args:
        module: Takes inputs of shape (batch, *input_shape) to logits of shape (batch, classes).
        examples: What to train on.
        epochs: Passes over the examples.
        batch_size: Examples a step; the last batch of an epoch may be smaller.
        lr: Learning rate.
        momentum: Share of the last step's direction that is kept.
        seed: Decides the order of the rows and what dropout drops.
        proximal: mu of FedProx, which holds the parameters near where they start; see `Sgd`.
        optimizer: `sgd`, or `adam`, for which `momentum` is not used.

    Returns:
        `train_loss`, the mean cross entropy over the last epoch as it was trained, and `seconds`.

    Raises:
        TaskError: If there is nothing to train on, or `epochs` or `batch_size` is below 1.
    """
    if len(examples) == 0 or epochs < 1 or batch_size < 1:
        raise TaskError(f"cannot train {epochs} epochs on {len(examples)} examples in batches of {batch_size}")
    started = time.perf_counter()
    inputs, labels = torch.tensor(examples.inputs), torch.tensor(examples.labels)
    steps = (
        Adam(module, lr=lr, proximal=proximal)
        if optimizer == "adam"
        else Sgd(module, lr=lr, momentum=momentum, proximal=proximal)
    )
    module.zero_grad(set_to_none=True)
    order = stream(seed, "order")
    with _mode(module, training=True), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "dropout"))
        for _ in range(epochs):
            loss_sum = 0.0
            rows_of_epoch = torch.from_numpy(order.permutation(len(examples)))
            for rows in torch.split(rows_of_epoch, batch_size):
                loss = functional.cross_entropy(module(inputs[rows]), labels[rows])
                torch.autograd.backward(loss)
                steps.step()
                loss_sum += loss.item() * len(rows)
    return {"train_loss": loss_sum / len(examples), "seconds": time.perf_counter() - started}


def evaluate(module: nn.Module, examples: Examples, *, batch_size: int = 512) -> tuple[float, float]:
    """Return mean cross entropy and accuracy (0 to 1) over the examples.

    Raises:
        TaskError: If there are no examples.
    """
    if len(examples) == 0:
        raise TaskError("cannot evaluate on no examples")
    logits = torch.from_numpy(predict(module, examples.inputs, batch_size=batch_size))
    # Copied: torch warns about read-only memory even where it only reads.
    labels = torch.tensor(examples.labels)
    # In float64, so that the mean hardly depends on how many examples there are.
    loss = functional.cross_entropy(logits.double(), labels)
    return float(loss), float((logits.argmax(dim=1) == labels).double().mean())


def predict(module: nn.Module, inputs: Inputs, *, batch_size: int = 512) -> Floats:
    """Return logits, float32 of shape (n, classes), for the model's inputs of shape (n, *input_shape)."""
    with _mode(module, training=False), torch.no_grad():
        # At least one batch, so that no inputs give logits of shape (0, classes).
        parts = [module(part) for part in torch.split(torch.tensor(inputs), batch_size)]
    logits: Floats = torch.cat(parts).float().numpy()
    return logits


@contextmanager
def _mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module into training or evaluation mode, and back afterwards."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)
