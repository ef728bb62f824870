"""`flserve bench startup`: where the seconds go before the first round and after the last.

Each way to run the same tiny job is started as a process of its own, as a person would. Its wall time is split
by what the run itself leaves in its folder, on the same machine's clock: the configuration is written when it is
composed, the history has the seconds of greeting and rounds, and the summary is written last. Lines of a log say
little: Flower streams them in batches, seconds late. Imports are timed in processes that do nothing else.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from flserve_app.errors import DeliveryError, NotFound, StoreError
from flserve_app.experiments.command import Lines, called, last_words
from flserve_app.experiments.console import report_console
from flserve_app.experiments.superlink import NAME, flower_command, own_superlink
from flserve_app.places import CONFIG_FILE, HISTORY_FILE, SUMMARY_FILE

JOB = ("experiment=tutorial", "num_clients=2", "strategy.clients_per_round=2", "num_rounds=3")
IMPORTS = "import os, flserve_app.experiments.run; os._exit(0)"
_SUBMITTED = "Successfully started run"
_SYNC = re.compile(r"uv sync took ([0-9.]+) seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One way to run, split into phases.

    Attributes:
        name: The command.
        seconds: Wall time, from the first process's start to the last one's end.
        phases: Seconds of each phase, in order; they add up to the wall time.
    """

    name: str
    seconds: float
    phases: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """When a run did what; seconds, and seconds since the epoch for moments.

    Attributes:
        composed: When its configuration was composed.
        summed_up: When its summary was written.
        greeting: What round 0 took: the engine's start, greeting the clients, the first evaluation.
        rounds: What the rounds took.
    """

    composed: float
    summed_up: float
    greeting: float
    rounds: float

    def phases(self) -> dict[str, float]:
        """Return the phases between the two moments."""
        rest = self.summed_up - self.composed - self.greeting - self.rounds
        return {"engine start and greeting": self.greeting, "rounds": self.rounds, "data, model, store": rest}


def run(project: Path | None) -> list[Profile]:
    """Profile `flserve run` with both engines, and `flwr run` of a project if one is named.

    Raises:
        DeliveryError: If a run fails.
        NotFound: If the project has no `pyproject.toml`.
    """
    if project is not None and not (project / "pyproject.toml").is_file():
        raise NotFound(f"there is no pyproject.toml in {project}: name flserve's own folder with --project")
    calls = [called([sys.executable, "-c", IMPORTS]) for _ in range(2)]  # the first may find cold files
    imports = min(lines[-1][0] - lines[0][0] for lines in calls)
    profiles = [_flserve(engine, imports) for engine in ("inprocess", "simulation")]
    return profiles if project is None else [*profiles, _flwr(project)]


def show(profiles: Sequence[Profile]) -> None:
    """Print a table for each way to run."""
    console = report_console()
    for profile in profiles:
        console.print(f"{profile.name}: {profile.seconds:.1f} s", soft_wrap=True)  # as a title it would wrap early
        table = Table()
        table.add_column("phase")
        table.add_column("s", justify="right")
        for phase, seconds in profile.phases.items():
            table.add_row(phase, f"{seconds:.2f}")
        console.print(table)


def read_trace(folder: Path) -> Trace:
    """Read what a run left in its folder.

    Raises:
        NotFound: If it did not come to its end.
        StoreError: If what it left cannot be read.
    """
    summary = folder / SUMMARY_FILE
    if not summary.is_file():
        raise NotFound(f"the run left no {SUMMARY_FILE} in {folder}: it did not come to its end")
    try:
        rows = [float(json.loads(line)["seconds"]) for line in (folder / HISTORY_FILE).read_text().splitlines()]
        composed, summed_up = (folder / CONFIG_FILE).stat().st_mtime, summary.stat().st_mtime
        return Trace(composed=composed, summed_up=summed_up, greeting=rows[0], rounds=sum(rows[1:]))
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise StoreError(f"what the run left in {folder} cannot be read: {error}") from error


def split_flserve(trace: Trace, started: float, ended: float, imports: float) -> dict[str, float]:
    """Return the phases of `flserve run`, which add up.

    Args:
        trace: What the run left.
        started: When its process was started, seconds since the epoch.
        ended: When that had ended.
        imports: Seconds that importing took in another process.
    """
    before = trace.composed - started
    imports = min(imports, before)
    return {"imports": imports, "composition": before - imports, **trace.phases(), "end": ended - trace.summed_up}


def split_flwr(trace: Trace, began: float, lines: Lines) -> dict[str, float]:
    """Return the phases of `flwr run` on a SuperLink of its own, which add up.

    Args:
        trace: What the run left.
        began: When the SuperLink was started, seconds since the epoch.
        lines: What `flwr run` printed, and when; an empty one at its start and at its end.

    Raises:
        DeliveryError: If the run was not submitted.
    """
    submitted = next((when for when, line in lines if _SUBMITTED in line), None)
    if submitted is None:
        raise DeliveryError(f"flwr run did not submit the run: {last_words(lines)}")
    found = (_SYNC.search(line) for _, line in lines)
    sync = next((float(match[1]) for match in found if match), 0.0)
    return {
        "SuperLink": lines[0][0] - began,
        "submission": submitted - lines[0][0],
        "dependency sync": sync,
        "processes, imports, composition": trace.composed - submitted - sync,
        **trace.phases(),
        "end and log stream": lines[-1][0] - trace.summed_up,
    }


def _flserve(engine: str, imports: float) -> Profile:
    with tempfile.TemporaryDirectory(prefix="flserve-bench-") as folder:
        target = Path(folder) / "run"
        command = [sys.executable, "-c", "from flserve_app.cli import main; main()", "run", *JOB]
        lines = called([*command, f"engine={engine}", f"hydra.run.dir={target}"], cwd=folder)
        phases = split_flserve(read_trace(target), lines[0][0], lines[-1][0], imports)
    return Profile(name=f"flserve run engine={engine}", seconds=sum(phases.values()), phases=phases)


def _flwr(project: Path) -> Profile:
    # The SuperLink's processes may still write there while they end.
    with tempfile.TemporaryDirectory(prefix="flserve-bench-", ignore_cleanup_errors=True) as folder:
        config = f'overrides="{" ".join(JOB)} hydra.run.dir={folder}/run"'
        command = [flower_command("flwr"), "run", str(project), NAME, "--stream", "--run-config", config]
        began = time.time()
        with own_superlink(Path(folder)) as environment:
            lines = called(command, cwd=folder, environment=environment)
        try:
            phases = split_flwr(read_trace(Path(folder) / "run"), began, lines)
        except NotFound as error:
            raise DeliveryError(f"flwr run failed: {last_words(lines)}") from error
    return Profile(name="flwr run", seconds=sum(phases.values()), phases=phases)
