"""`flserve bench big`: what memory a large model takes on its way, under a cap.

One process does it all, phase after phase, and cannot take more than the cap for its data (RLIMIT_DATA): make two
versions, encode and decode the difference, publish both to a store, load and verify them, then a federated round
over the in-process engine: version 0 travels in full, the client's update back, version 1 as a delta, and the
client verifies what it holds. The peak is what the process itself had in memory at most (VmHWM), files that it had
mapped included. Linux only.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from rich.table import Table

from flserve_app.artifact import Artifact
from flserve_app.client import versioned_mod
from flserve_app.client.records import to_artifact, to_record
from flserve_app.codec import decode, encode
from flserve_app.errors import FlserveError
from flserve_app.experiments.console import report_console
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.registry import Registry, verify
from flserve_app.strategy import VersionedStrategy

# Shares of the whole; the largest tensor has a quarter.
_SHARES = (0.25, 0.25, 0.25, 0.125, 0.0625, 0.0625)
_COLUMNS = 1024
_MOVE = 2.0**-12
_MIB = 1 << 20

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What one step took.

    Attributes:
        name: The step.
        seconds: Its time.
        before: Bytes in memory before it.
        peak: Bytes in memory at most while it ran.
        nbytes: Bytes of what it gave, if that stays in memory.
    """

    name: str
    seconds: float
    before: int
    peak: int
    nbytes: int

    @property
    def extra(self) -> int:
        """Bytes it took beyond what was there before and what it gave."""
        return self.peak - self.before - self.nbytes


def run(*, gigabytes: float, cap_gigabytes: float) -> list[Phase]:
    """Do all phases in a process of their own, under a cap.

    Args:
        gigabytes: Size of the model, 2**30 bytes.
        cap_gigabytes: What the process may take for its data.

    Raises:
        FlserveError: If it fails, which it does if the cap is too low.
    """
    with tempfile.TemporaryDirectory(prefix="flserve-big-") as folder:
        settings = json.dumps({"gigabytes": gigabytes, "cap": cap_gigabytes, "folder": folder})
        command = [sys.executable, "-m", "flserve_app.experiments.bench_big", settings]
        environment = {**os.environ, "FLSERVE_CACHE_DIR": f"{folder}/cache", "FLWR_TELEMETRY_ENABLED": "0"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FlserveError(f"a model of {gigabytes} GB does not pass under {cap_gigabytes} GB: {reason}")
    return [Phase(**phase) for phase in json.loads(done.stdout.splitlines()[-1])]


def show(phases: Sequence[Phase], *, gigabytes: float, cap_gigabytes: float) -> None:
    """Print the phases on stdout."""
    title = f"A model of {gigabytes:g} GB under a cap of {cap_gigabytes:g} GB; MB are 2**20 bytes"
    table = Table(title=title, title_justify="left")
    table.add_column("phase", no_wrap=True)
    for head in ("seconds", "MB before", "MB given", "MB at most", "MB besides"):
        table.add_column(head, justify="right")
    for phase in phases:
        sizes = (phase.before, phase.nbytes, phase.peak, phase.extra)
        table.add_row(phase.name, f"{phase.seconds:.1f}", *(f"{size / _MIB:.0f}" for size in sizes))
    report_console().print(table)


@final
class _Meter:
    """Runs steps and notes what each took."""

    def __init__(self) -> None:
        self.phases: list[Phase] = []

    def step(
        self, name: str, work: Callable[..., Result], *given: object, kept: bool = False, **named: object
    ) -> Result:
        """Do some work and note it, and the size of the result if it is kept."""
        before = _resident("VmRSS")
        # Linux: sets the high-water mark back to what is there now.
        Path("/proc/self/clear_refs").write_text("5")
        started = time.perf_counter()
        result = work(*given, **named)
        seconds = time.perf_counter() - started
        size = 0 if not kept else len(result) if isinstance(result, bytes) else getattr(result, "nbytes", 0)
        peak = _resident("VmHWM")
        self.phases.append(Phase(name=name, seconds=seconds, before=before, peak=peak, nbytes=size))
        return result


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def _version(gigabytes: float) -> Artifact:
    random = np.random.Generator(np.random.SFC64(1))
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for index, share in enumerate(_SHARES):
        rows = max(1, int(share * gigabytes * (1 << 28)) // _COLUMNS)
        tensors[f"layer{index}"] = random.standard_normal((rows, _COLUMNS), dtype=np.float32)
        tensors[f"layer{index}"].flags.writeable = False
    return Artifact(tensors)


def _trained(artifact: Artifact) -> Artifact:
    """Return the artifact a step later: every weight moves by up to 2**-12 of itself."""
    random = np.random.Generator(np.random.SFC64(2))
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for name, array in artifact.items():
        moved = np.asarray(random.random(array.shape, dtype=np.float32))
        moved *= np.float32(_MOVE)
        moved += np.float32(1)
        moved *= array
        moved.flags.writeable = False
        tensors[name] = moved
    return Artifact(tensors)


def _measure(gigabytes: float, folder: Path) -> list[Phase]:
    meter = _Meter()
    first = meter.step("make v0", _version, gigabytes, kept=True)
    second = meter.step("make v1", _trained, first, kept=True)
    meter.step("hash both", _digests, first, second)
    payload = meter.step("encode v0 to v1", encode, second, first, kept=True)
    digest = second.digest
    del second
    second = meter.step("decode and verify v1", decode, payload, first, kept=True)
    del payload
    _check(second.digest, digest)
    with Registry.open(folder / "store") as registry:
        meter.step("publish v0", registry.publish, "big", first, round=0, codec="lossless")
        meter.step("publish v1", registry.publish, "big", second, round=1, codec="lossless", parent=0)
    del second
    # Opened anew, as it keeps the last version in memory.
    with Registry.open(folder / "store") as registry:
        loaded = meter.step("load and verify v1", registry.load, digest, kept=True)
        _check(loaded.digest, digest)
    del loaded
    with Registry.open(folder / "store") as registry:
        report = meter.step("verify the store", verify, registry)
        _check((report.clean, report.payloads), (True, 2))
    del report, registry
    meter.step("a federated round", _federate, first, folder / "run")
    return meter.phases


def _digests(*artifacts: Artifact) -> None:
    for artifact in artifacts:
        artifact.manifest  # noqa: B018 computed once and kept


def _federate(initial: Artifact, store: Path) -> None:
    """Deliver v0 in full, train, publish v1, deliver it as a delta for evaluation."""
    inner = FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    with InProcessGrid(_app(), 1) as grid:
        strategy = VersionedStrategy(inner, store=store, num_clients=1)
        strategy.start(grid=grid, initial_arrays=initial, num_rounds=1, timeout=3600.0)
        _check(strategy.version.number, 1)
        strategy.registry.close()


def _app() -> ClientApp:
    app = ClientApp(mods=[versioned_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        trained = to_record(_trained(to_artifact(message.content.array_records["arrays"])))
        return Message(RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})}), reply_to=message)

    return app


def _check(found: object, expected: object) -> None:
    if found != expected:
        raise FlserveError(f"a phase ended with {found}, expected {expected}")


def _main(settings: str) -> None:
    given = json.loads(settings)
    cap = int(given["cap"] * (1 << 30))
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    phases = _measure(given["gigabytes"], Path(given["folder"]))
    sys.stdout.write(json.dumps([asdict(phase) for phase in phases]) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])
