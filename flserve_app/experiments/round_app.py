"""The Flower app of `flserve bench round --engine superlink`: written into a folder, submitted with `flwr run`.

Its clients are flserve's own, with one query more that does nothing: a round of it is Flower's own floor, the
polling and a process a message. Its server measures the floor, lets plain and versioned take turns at every job,
and writes one JSON file, whole, when all is done, or a file with the reason why not: what Flower's log ends with
is no reason. The app's two modules only name what is here or in `compose`,
so nothing but flserve itself has to be installed where they run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

from flserve_app.errors import DeliveryError, FlserveError, NotFound
from flserve_app.experiments.turns import CLIENTS, RoundCost, compose, take_turns
from flserve_app.store import write_file

FLOOR_QUERIES = 3
WAIT_SECONDS = 120.0
RESULT_FILE = "result.json"
REASON_FILE = "reason.txt"
_POLL_SECONDS = 0.2
_PYPROJECT = """
[project]
name = "flserve-bench-round"
version = "1.0.0"
description = "Rounds with and without versions"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "flserve"

[tool.flwr.app.components]
serverapp = "flserve_bench_server:app"
clientapp = "flserve_bench_client:app"

[tool.flwr.app.config]
"""
_SERVER = '''"""Measures."""

from flwr.serverapp import ServerApp

from flserve_app.experiments.round_app import serve

app = ServerApp()
app.main()(serve)
'''
_CLIENT = '''"""Trains, and answers what costs nothing."""

from flwr.app import Message, RecordDict

from flserve_app.compose.apps import make_client_app

app = make_client_app()


@app.query("nothing")
def nothing(message, context):
    """Answer with nothing."""
    return Message(RecordDict(), reply_to=message)
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the app measured.

    Attributes:
        floor_seconds: Rounds of a query that does nothing.
        costs: What a round of each job took.
    """

    floor_seconds: tuple[float, ...]
    costs: tuple[RoundCost, ...]


def write_app(folder: Path, *, jobs: Sequence[str], rounds: int, turns: int, codec: str) -> None:
    """Write the app, and with it what it is to measure, into a folder that does not exist yet."""
    folder.mkdir()
    config = {"jobs": ",".join(jobs), "rounds": rounds, "turns": turns, "codec": codec, "folder": str(folder)}
    lines = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in config.items())
    (folder / "pyproject.toml").write_text(_PYPROJECT + lines, encoding="utf-8")
    (folder / "flserve_bench_server.py").write_text(_SERVER, encoding="utf-8")
    (folder / "flserve_bench_client.py").write_text(_CLIENT, encoding="utf-8")
    (folder / "README.md").write_text("# flserve bench round\n", encoding="utf-8")


def read_result(folder: Path) -> Measured:
    """Read what the app left in its folder.

    Raises:
        DeliveryError: If it said why it could not measure.
        NotFound: If it did not come to its end.
    """
    if (reason := folder / REASON_FILE).is_file():
        raise DeliveryError(f"the run on the SuperLink failed: {reason.read_text(encoding='utf-8')}")
    try:
        found = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"the run left no {RESULT_FILE} in {folder}: it did not come to its end") from error
    return Measured(floor_seconds=tuple(found["floor_seconds"]), costs=tuple(_cost(entry) for entry in found["costs"]))


def serve(grid: Grid, context: Context) -> None:
    """Measure what the app's configuration names, and write it down.

    Raises:
        FlserveError: If it cannot be measured; the reason is written down, too.
    """
    config: Any = context.run_config
    folder = Path(config["folder"])
    try:
        measured = _measure(grid, config, folder)
    except FlserveError as error:
        write_file(folder / REASON_FILE, str(error).encode())
        raise
    write_file(folder / RESULT_FILE, json.dumps(asdict(measured)).encode())


def _measure(grid: Grid, config: Any, folder: Path) -> Measured:
    jobs = config["jobs"].split(",")
    for job in jobs:
        compose(job, config["codec"])
    nodes = _wait_for_nodes(grid)
    floor = [_floor(grid, nodes) for _ in range(FLOOR_QUERIES + 1)][1:]  # the first fetches the app
    costs = tuple(
        take_turns(grid, job, rounds=config["rounds"], turns=config["turns"], codec=config["codec"], folder=folder)
        for job in jobs
    )
    return Measured(floor_seconds=tuple(floor), costs=costs)


def _wait_for_nodes(grid: Grid) -> list[int]:
    deadline = time.monotonic() + WAIT_SECONDS
    while len(nodes := list(grid.get_node_ids())) < CLIENTS:
        if time.monotonic() > deadline:
            raise DeliveryError(f"{CLIENTS} SuperNodes are expected, {len(nodes)} came within {WAIT_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    return nodes


def _floor(grid: Grid, nodes: Sequence[int]) -> float:
    """Return the seconds of a query to every node, sent and waited for as Flower does it."""
    started = time.perf_counter()
    messages = [Message(RecordDict(), node, "query.nothing") for node in nodes]
    replies = list(grid.send_and_receive(messages, timeout=WAIT_SECONDS))
    failed = [str(reply.error.reason) for reply in replies if reply.has_error()]
    if failed or len(replies) < len(nodes):
        raise DeliveryError(f"{len(nodes)} SuperNodes were asked, {len(replies)} answered: {failed[:1]}")
    return time.perf_counter() - started


def _cost(entry: dict[str, Any]) -> RoundCost:
    return RoundCost(
        job=entry["job"],
        megabytes=entry["megabytes"],
        plain_seconds=tuple(entry["plain_seconds"]),
        versioned_seconds=tuple(entry["versioned_seconds"]),
        phases=entry["phases"],
    )
