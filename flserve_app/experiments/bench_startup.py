"""`flserve bench startup`: where the seconds go before the first round and after the last.

Each way to run the same tiny job is started as a process of its own, as a person would. Its wall time is split
by what it reports itself: the imports are timed in a process that does nothing else, greeting and rounds stand
in the run's history, and Flower's log lines are stamped as they arrive. What is left is the engine's end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flserve_app.errors import DeliveryError, NotFound

JOB = ("experiment=tutorial", "num_clients=2", "strategy.clients_per_round=2", "num_rounds=3")
IMPORTS = "import flserve_app.experiments.run"
LIMIT_SECONDS = 300.0
FLWR_MARKS = (
    ("submission and SuperLink", "Starting Flower Simulation"),
    ("dependency sync", "App dependencies installed"),
    ("imports and composition", "flserve: run folder"),
    ("engine start and greeting", "clients connected"),
    ("rounds", "Strategy execution finished"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to run, split into phases.

    Attributes:
        name: The command.
        seconds: Wall time of its process.
        phases: Seconds of each phase, in order; they add up to the wall time.
    """

    name: str
    seconds: float
    phases: dict[str, float]


def run(project: Path | None) -> list[Profile]:
    """Profile `flserve run` with both engines, and `flwr run` of a project if one is named.

    Raises:
        DeliveryError: If a run fails.
        NotFound: If the project has no `pyproject.toml`.
    """
    if project is not None and not (project / "pyproject.toml").is_file():
        raise NotFound(f"there is no pyproject.toml in {project}: name flserve's own folder with --project")
    imports = _seconds([sys.executable, "-c", IMPORTS])
    profiles = [_flserve(engine, imports) for engine in ("inprocess", "simulation")]
    return profiles if project is None else [*profiles, _flwr(project)]


def show(profiles: Sequence[Profile]) -> None:
    """Print a table for each way to run."""
    for profile in profiles:
        table = Table(title=f"{profile.name}: {profile.seconds:.1f} s", title_justify="left")
        table.add_column("phase")
        table.add_column("s", justify="right")
        for phase, seconds in profile.phases.items():
            table.add_row(phase, f"{seconds:.2f}")
        Console().print(table)


def _flserve(engine: str, imports: float) -> Profile:
    with tempfile.TemporaryDirectory(prefix="flserve-bench-") as folder:
        target = Path(folder) / "run"
        command = [sys.executable, "-c", "from flserve_app.cli import main; main()", "run", *JOB]
        seconds = _seconds([*command, f"engine={engine}", f"hydra.run.dir={target}"], cwd=folder)
        rows = [json.loads(line) for line in (target / "history.jsonl").read_text().splitlines()]
        whole = json.loads((target / "summary.json").read_text())["seconds"]
    rounds = sum(row["seconds"] for row in rows[1:])
    phases = {
        "imports": imports,
        "engine start and greeting": rows[0]["seconds"],
        "rounds": rounds,
        "data, model, store": whole - rows[0]["seconds"] - rounds,
        "composition, engine's own start and end": seconds - whole - imports,
    }
    return Profile(name=f"flserve run engine={engine}", seconds=seconds, phases=phases)


def _flwr(project: Path) -> Profile:
    with tempfile.TemporaryDirectory(prefix="flserve-bench-") as folder:
        return _flwr_into(project, folder)


def _flwr_into(project: Path, folder: str) -> Profile:
    config = f'overrides="{" ".join(JOB)} hydra.run.dir={folder}/run"'
    command = [str(Path(sys.executable).parent / "flwr"), "run", str(project), "--stream", "--run-config", config]
    started = time.perf_counter()
    stamps: dict[str, float] = {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=project)
    with process:
        for line in process.stdout or ():
            for phase, mark in FLWR_MARKS:
                if mark in line:
                    stamps.setdefault(phase, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    if missing := [mark for phase, mark in FLWR_MARKS if phase not in stamps and phase != "dependency sync"]:
        raise DeliveryError(f"flwr run did not get to {missing[0]!r}")
    phases, before = {}, 0.0
    for phase, _ in FLWR_MARKS:
        if phase in stamps:
            phases[phase], before = stamps[phase] - before, stamps[phase]
    return Profile(name="flwr run", seconds=seconds, phases={**phases, "end": seconds - before})


def _seconds(command: Sequence[str], cwd: str | None = None) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=cwd, env=os.environ, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    if done.returncode != 0:
        raise DeliveryError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-300:]}")
    return time.perf_counter() - started
