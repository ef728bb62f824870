"""`flserve bench plan`: what a round with many clients costs the server.

A model has a history of versions, each some way from the one before, in a store of its own. In one round all clients
come for the newest; what they hold is spread evenly over some of the versions before it. The clients for whom a
payload was made are counted apart: what is left is looking for the cheapest way and fetching its payloads from the
cache or the store, as the server does for each client in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from flserve_app.artifact import Artifact
from flserve_app.codec.lossy import Lossy, lossy_of
from flserve_app.experiments.console import report_console
from flserve_app.fleet import BASIC, CHAIN
from flserve_app.registry import Registry
from flserve_app.strategy.publisher import Publisher

# What versions are delivered with, and what is asked of a codec that rounds.
CODECS = {"lossless": None, "grid": {"multiple": 2.0}, "topk": {"share": 0.01}}
_EXACT = "lossless-small"
_SIDE = 512  # of the square tensors of the model
_MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round cost.

    Attributes:
        codec: Codec of delivery.
        versions: Versions in the history.
        bases: Distinct versions that clients hold.
        clients: Clients that came.
        made: Payloads that were made.
        made_seconds: Seconds that the clients waited for whom payloads were made, all together.
        plan_ms: Milliseconds a client for whom none was made, in the mean.
        worst_ms: Milliseconds of the slowest of them.
        nbytes: Bytes of all payloads that were sent.
        full: Bytes of the model times the clients.
    """

    codec: str
    versions: int
    bases: int
    clients: int
    made: int
    made_seconds: float
    plan_ms: float
    worst_ms: float
    nbytes: int
    full: int


def rounds(*, megabytes: float, versions: int, clients: int, bases: Sequence[int]) -> Iterator[Round]:
    """Yield a round for each codec and number of distinct bases.

    Args:
        megabytes: Size of the model, 10**6 bytes, in whole tensors of 1 MiB.
        versions: Versions in the history, at least 2.
        clients: Clients a round.
        bases: Distinct versions that they hold, of each round; at most all but the newest.
    """
    artifacts = list(_history(max(1, round(megabytes * 1e6 / (4 * _SIDE**2))), versions))
    for codec, arguments in CODECS.items():
        lossy = None if arguments is None else lossy_of(codec, arguments)
        for count in bases:
            with tempfile.TemporaryDirectory(prefix="flserve-plan-") as folder, Registry.open(Path(folder)) as registry:
                yield _round(registry, artifacts, codec, lossy, min(count, versions - 1), clients)


def show(found: Sequence[Round]) -> None:
    """Print a table on stdout."""
    of = ", ".join(dict.fromkeys(f"{each.clients} clients, {each.versions} versions" for each in found))
    drawn = Table(title=f"The server's part of a round: {of}", title_justify="left")
    for head in ("codec", "bases", "made", "seconds", "ms a client", "worst ms", "of full"):
        drawn.add_column(head, justify="left" if head == "codec" else "right", no_wrap=True)
    for each in found:
        times = f"{each.made_seconds:.2f}", f"{each.plan_ms:.3f}", f"{each.worst_ms:.2f}"
        drawn.add_row(each.codec, str(each.bases), str(each.made), *times, f"{each.nbytes / each.full:.2%}")
    report_console().print(drawn)


def _round(
    registry: Registry, artifacts: list[Artifact], codec: str, lossy: Lossy | None, bases: int, clients: int
) -> Round:
    publisher = Publisher(registry, _MODEL, codec if lossy is None else _EXACT, lossy=lossy)
    held = []
    for number, artifact in enumerate(artifacts):
        publisher.publish(artifact, number)
        held.append(publisher.version.digest)
    target, takes = held[-1], BASIC | {CHAIN, codec}
    places = np.linspace(0, len(held) - 2, bases).astype(int)
    waited: list[float] = []
    planned: list[float] = []
    nbytes, made = 0, publisher.cache_info().encodes
    for client in range(clients):
        base = held[places[client % bases]]
        started = time.perf_counter()
        _, payloads = publisher.deliver((base,), target, takes)
        seconds = time.perf_counter() - started
        nbytes += sum(map(len, payloads.values()))
        now = publisher.cache_info().encodes
        (waited if now > made else planned).append(seconds)
        made = now
    return Round(
        codec=codec,
        versions=len(artifacts),
        bases=bases,
        clients=clients,
        made=made,
        made_seconds=sum(waited),
        plan_ms=1e3 * sum(planned) / max(1, len(planned)),
        worst_ms=1e3 * max(planned, default=0.0),
        nbytes=nbytes,
        full=clients * artifacts[-1].nbytes,
    )


def _history(tensors: int, versions: int) -> Iterator[Artifact]:
    """Yield versions that move by a thousandth of their values' scale."""
    random = np.random.Generator(np.random.SFC64(0))

    def drawn(scale: float) -> np.ndarray:
        return random.standard_normal((_SIDE, _SIDE), dtype=np.float32) * np.float32(scale)

    values = {f"layer{index}": drawn(0.03) for index in range(tensors)}
    for _ in range(versions):
        yield Artifact(values)
        values = {name: array + drawn(3e-5) for name, array in values.items()}
