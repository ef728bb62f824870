"""What a strategy's own loop hands back, and whether the store has it.

Flower's loop hands back the last aggregate, which is the newest version. A loop of somebody else may choose another
(the best), or make one after aggregation. Rules:
- What it hands back is not touched: it is what plain Flower would have handed back.
- A model that no version of the run is becomes one, the newest: what an app works with afterwards is in the store.
- A loop that never aggregated through the strategy's methods published nothing on its way: that is said.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO, WARNING
from typing import Any, cast

from flwr.app import ArrayRecord
from flwr.common.logger import log
from flwr.serverapp.strategy import Result

from flserve_app.artifact import Artifact
from flserve_app.errors import ArtifactError
from flserve_app.strategy.publisher import Publisher
from flserve_app.strategy.restore import restore
from flserve_app.text import plain


def conclude(
    result: object, publisher: Publisher, publish: Callable[[Artifact], object], name: str, *, since: int
) -> None:
    """Say what a loop left undone, and publish the model that it hands back unless that is a version of this run.

    Args:
        result: What the loop returned.
        publisher: Knows the versions.
        publish: Makes an artifact the next version.
        name: Name of the strategy, for messages.
        since: Number of the newest version when the loop began.
    """
    if publisher.version.number == since:
        log(
            WARNING,
            "flserve: the start of %s published no version on its way: move what it does with the replies of training "
            "into aggregate_train, and call self.aggregate_train in its loop",
            name,
        )
    arrays = result.arrays if isinstance(result, Result) else result
    if not isinstance(arrays, ArrayRecord) or not arrays:
        return
    try:
        artifact = restore(arrays, publisher.artifact)
    except ArtifactError as error:
        log(WARNING, "flserve: what the start of %s returned is no version: %s", name, plain(error))
        return
    number = publisher.number_of(artifact.digest)
    if number < 0:
        publish(artifact)
        log(INFO, "flserve: what the start of %s returned is published as %s", name, publisher.version.name)
    elif number != publisher.version.number:
        log(INFO, "flserve: what the start of %s returned is version %d", name, number)


def with_arrays(result: Any, newest: ArrayRecord) -> Result:
    """Return a result with the newest version where it has no arrays, as where no round was left to do."""
    if isinstance(result, Result):
        result.arrays = result.arrays or newest
    return cast(Result, result)
