"""A bench's own Flower app: written into a folder, submitted with `flwr run`, and what it left read there.

Its clients are flserve's own, with one query more that does nothing: a round of it is Flower's own floor, the
polling and a process a message. Its server calls one function, which writes one JSON file, whole, when all is
done, or a file with the reason why not: what Flower's log ends with is no reason. The app's two modules
only name what is in flserve, so nothing but flserve itself has to be installed where they run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flserve_app.errors import DeliveryError, FlserveError, NotFound, StoreError
from flserve_app.experiments.command import called, last_words
from flserve_app.experiments.network import Network
from flserve_app.experiments.superlink import NAME, flower_command, own_deployment
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

from {module} import serve

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


def write_project(folder: Path, module: str, config: Mapping[str, str | int | float]) -> None:
    """Write the app into a folder that does not exist yet.

    Args:
        folder: The folder.
        module: Name of the module of flserve whose `serve` is the server.
        config: What the server finds in its run config, beside the `folder`.
    """
    folder.mkdir()
    settled = {**config, "folder": str(folder)}
    lines = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settled.items())
    (folder / "pyproject.toml").write_text(_PYPROJECT + lines, encoding="utf-8")
    (folder / "flserve_bench_server.py").write_text(_SERVER.format(module=module), encoding="utf-8")
    (folder / "flserve_bench_client.py").write_text(_CLIENT, encoding="utf-8")
    (folder / "README.md").write_text("# A bench of flserve\n", encoding="utf-8")


def submit(folder: Path, network: Network, limit_seconds: float) -> Any:
    """Run the app on a SuperLink of its own, started beside its folder, and read what it left.

    Args:
        folder: Where the app was written.
        network: Where SuperLink and SuperNodes run.
        limit_seconds: When it is ended.

    Raises:
        DeliveryError: If the SuperLink does not start, or the run fails.
    """
    place = folder.parent
    command = [*network.superlink, flower_command("flwr"), "run", str(folder), NAME, "--stream"]
    with own_deployment(place, network) as environment:
        lines = called(command, cwd=place, environment=environment, limit_seconds=limit_seconds)
    try:
        return read_result(folder)
    except NotFound as error:
        raise DeliveryError(f"the run on the SuperLink failed: {last_words(lines)}") from error


def read_result(folder: Path) -> Any:
    """Read what the app left in its folder.

    Raises:
        DeliveryError: If it said why it could not measure.
        NotFound: If it did not come to its end.
        StoreError: If what it left cannot be read.
    """
    if (reason := folder / REASON_FILE).is_file():
        raise DeliveryError(f"the run on the SuperLink failed: {reason.read_text(encoding='utf-8')}")
    try:
        return json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"the run left no {RESULT_FILE} in {folder}: it did not come to its end") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder / RESULT_FILE} cannot be read: {error}") from error


def leave_result(folder: Path, measure: Callable[[], Any]) -> None:
    """Measure, and write down what came of it: a dataclass, or the reason why not.

    Raises:
        FlserveError: If it cannot be measured.
    """
    try:
        measured = measure()
    except FlserveError as error:
        write_file(folder / REASON_FILE, str(error).encode())
        raise
    write_file(folder / RESULT_FILE, json.dumps(asdict(measured)).encode())


def measure_floor(grid: Grid, count: int) -> tuple[float, ...]:
    """Wait for nodes, and return the seconds of a few rounds of a query that does nothing.

    Raises:
        DeliveryError: If the nodes do not come, or do not answer.
    """
    nodes = _wait_for_nodes(grid, count)
    return tuple([_floor(grid, nodes) for _ in range(FLOOR_QUERIES + 1)][1:])  # the first fetches the app


def _wait_for_nodes(grid: Grid, count: int) -> list[int]:
    deadline = time.monotonic() + WAIT_SECONDS
    while len(nodes := list(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise DeliveryError(f"{count} SuperNodes are expected, {len(nodes)} came within {WAIT_SECONDS:.0f} s")
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
