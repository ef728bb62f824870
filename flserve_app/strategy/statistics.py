"""Statistics of norm layers under a strategy that goes on from its own last step, where versions are rounded.

A running variance is measured, not trained. Momentum at the server, or a learning rate of its own above 1, carries a
mean of measurements on in the direction that it moved: below 0 for a variance, of which a model makes nothing that is a
number. Flower's strategies do that, and so they do here where nothing is rounded, bit for bit. Where versions are
rounded, momentum stands in for feedback, and statistics are what clients measured: the mean of the replies,
weighted as the strategy weighs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from logging import WARNING
from typing import Any, final

import numpy as np
from flwr.app import Message
from flwr.common.logger import log
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi, Strategy

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import Roles
from flserve_app.client.records import read_array
from flserve_app.strategy.reply_metrics import weight_of

NDArray = np.ndarray[Any, np.dtype[Any]]
_OPTIMIZERS = (FedAvgM, FedAdam, FedAdagrad, FedYogi)


@final
class Statistics:
    """Keeps statistics out of a server's optimizer.

    Args:
        strategy: The inner strategy.
        roles: What tensors are for.
        rounded: Whether versions or updates are rounded.
    """

    def __init__(self, strategy: Strategy, roles: Roles, *, rounded: bool) -> None:
        self._optimizes = isinstance(strategy, _OPTIMIZERS)
        self._weighted_by = str(getattr(strategy, "weighted_by_key", ""))
        self._roles = roles
        self._rounded = rounded
        self._told = False

    def measured(self, version: Artifact, replies: Sequence[Message]) -> Artifact:
        """Return a version with its statistics as the replies measured them, where that is to be; log what is wrong."""
        names = [name for name, role in self._roles.of(version).items() if role == "statistic"]
        if not self._optimizes or not names:
            return version
        if self._rounded:
            means = _means(names, version, replies, self._weighted_by)
            dtypes = {name: spec.dtype for name, spec in version.specs.items()}
            version = Artifact.borrowed({**version, **means}, dtypes=dtypes)
        below = [name for name in names if name.endswith("running_var") and np.any(version[name] < 0)]
        if below and not self._told:
            self._told = True
            log(
                WARNING,
                "flserve: the strategy led %d variances below 0 (%s): such a model predicts nothing",
                len(below),
                below[0],
            )
        return version


def _means(names: Sequence[str], version: Artifact, replies: Sequence[Message], weighted_by: str) -> dict[str, NDArray]:
    """Return the weighted means of those statistics that all replies have in the version's form."""
    weights = [weight_of(reply, weighted_by) for reply in replies]
    found: dict[str, NDArray] = {}
    for name in names:
        arrays = [
            read_array(name, record[name])
            for reply in replies
            for record in reply.content.array_records.values()
            if name in record
        ]
        if (
            len(arrays) == len(replies)
            and all(array.shape == version[name].shape for array in arrays)
            and sum(weights) > 0
        ):
            mean = sum(
                array.astype(np.float64) * (weight / sum(weights))
                for array, weight in zip(arrays, weights, strict=True)
            )
            found[name] = np.asarray(mean).astype(version[name].dtype)
    return found
