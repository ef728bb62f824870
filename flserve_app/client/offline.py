"""A client without a server: the Context that Flower would hand over, made from what the device itself knows.

Between runs nobody hands one over; a client made with this one finds what it was given before, by the same identity
and in the same cache directory, and predicts with it.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, RecordDict, UserConfigValue

NO_RUN = 0


def offline_context(
    cache_dir: str | Path | None = None, *, partition_id: int | None = None, num_partitions: int | None = None
) -> Context:
    """Return a Context for a client of this device, outside of any run.

    Args:
        cache_dir: Where the client keeps what it holds; None for the place that the environment names.
        partition_id: The node's `partition-id`, if it runs with one: it names the client.
        num_partitions: The node's `num-partitions`, if the client's own code asks for it.
    """
    known: dict[str, UserConfigValue | None] = {
        "cache-dir": None if cache_dir is None else str(cache_dir),
        "partition-id": partition_id,
        "num-partitions": num_partitions,
    }
    config = {key: value for key, value in known.items() if value is not None}
    return Context(run_id=NO_RUN, node_id=NO_RUN, node_config=config, state=RecordDict(), run_config={})
