"""`flserve bench bytes`: how many bytes it takes to plain FedAvg's accuracy.

Every run but the 8-bit baseline's is the product itself: `run_job` over clients in this process, rows as they stand in
a run's history. Settings are paired with plain FedAvg of the same seed: same data, weights, draws of clients and order
of examples. Finished runs are kept in a folder; started again with the same options, the bench does what is left.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from flwr.serverapp import Grid
from rich.table import Table

from flserve_app.compose.apps import make_client_app
from flserve_app.compose.job import check, run_job
from flserve_app.compose.summary import readable_bytes
from flserve_app.config import Composed, load
from flserve_app.errors import ConfigError
from flserve_app.experiments.byte_curve import MARGIN, WINDOW, Curve, compare, curve_of, summed_up
from flserve_app.experiments.byte_settings import FEWEST_SEEDS, PLAIN, PLAIN_ROUNDS, SETTINGS, Size, sizes_of
from flserve_app.experiments.bytes_plot import check_plot, plot
from flserve_app.experiments.console import report_console
from flserve_app.experiments.eight_bit import run_eight_bit
from flserve_app.experiments.engine import federate
from flserve_app.experiments.kept_runs import KeptRuns, key_of
from flserve_app.strategy import RoundRow

DEFAULT_CLIENTS = 10

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One run to be done.

    Attributes:
        model: Its size, a key of `sizes_of`.
        setting: A key of `SETTINGS`.
        composed: Its configuration, seed included.
        key: What it is kept under.
    """

    model: str
    setting: str
    composed: Composed
    key: str


def run(
    folder: Path,
    *,
    settings: Sequence[str] = (),
    models: Sequence[str] = (),
    seeds: Sequence[int] = (),
    rounds: int | None = None,
    overrides: Sequence[str] = (),
    draw: bool = False,
    note: Note = lambda text: None,
) -> list[dict[str, Any]]:
    """Run what is not done yet, and compare.

    Args:
        folder: Where finished runs and pictures go.
        settings: Keys of `SETTINGS`; all by default. Plain FedAvg is run in any case.
        models: Keys of `SIZES`; all by default. Overrides that choose a model leave that one alone.
        seeds: Seeds of every setting and model; by default those that each is meant to have.
        rounds: Rounds of plain FedAvg; the others have more, in the same ratio as by default.
        overrides: Further Hydra overrides, the same for every run.
        draw: Whether to draw `bytes-<model>.png`.
        note: Told of every finished run.

    Returns:
        One object a setting and model; see `byte_curve.summed_up`.

    Raises:
        ConfigError: If a setting, a model or an override is unknown, or the override is of what settings decide.
        MissingExtra: If the data or matplotlib is not installed.
        FlserveError: Whatever keeps a run from being done.
    """
    if draw:
        check_plot()
    sizes = sizes_of(overrides)
    chosen = {name: sizes[name] for name in _known("model", models, sizes)}
    jobs = list(_jobs(_known("setting", settings, SETTINGS), chosen, seeds, rounds, overrides))
    for job in {(job.model, job.setting): job for job in jobs}.values():
        check(job.composed.app, _clients(job), folder)
    kept = KeptRuns(folder)
    for job in jobs:
        if kept.find(job.key) is None:
            started = time.perf_counter()
            curve = _eight_bit(job) if SETTINGS[job.setting].eight_bit else _versioned(job)
            seconds = round(time.perf_counter() - started, 1)
            kept.add(job.key, curve, model=job.model, setting=job.setting, seed=job.composed.app.seed, seconds=seconds)
            note(_said(job, curve, seconds))
    done = {job: found for job in jobs if (found := kept.find(job.key)) is not None}
    if draw:
        _draw(folder, done)
    return list(_compared(done))


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the comparison as a table."""
    caption = (
        f"reached: in the mean of {WINDOW} rounds at most {100 * MARGIN:g} points below plain FedAvg's last round; "
        "plain is charged all its rounds, and so is a seed that did not reach"
    )
    drawn = Table(
        title="Bytes to the accuracy of plain FedAvg", title_justify="left", caption=caption, caption_justify="left"
    )
    drawn.add_column("model", no_wrap=True)
    drawn.add_column("setting", no_wrap=True)
    for head in ("reached", "to reach", "fewer", "messages", "accuracy", "points behind", "at equal rounds", "fewer"):
        drawn.add_column(head, justify="right")
    for row in rows:
        drawn.add_row(
            row["model"],
            row["name"],
            f"{row['reached']} of {row['seeds']}",
            readable_bytes(round(row["bytes"])),
            f"{row['fewer']:.1f} x",
            f"{row['fewer_message']:.1f} x",
            f"{row['accuracy']:.4f}",
            _behind(row),
            readable_bytes(round(row["bytes_equal"])),
            f"{row['fewer_equal']:.1f} x",
        )
    return drawn


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table on stdout."""
    report_console().print(table(rows))


def _known(what: str, asked: Sequence[str], known: Any) -> list[str]:
    if strange := [name for name in asked if name not in known]:
        raise ConfigError(f"{what} {strange[0]!r} is unknown; known: {', '.join(known)}")
    return [name for name in known if name in asked or not asked]


def _jobs(
    settings: Sequence[str],
    sizes: Mapping[str, Size],
    seeds: Sequence[int],
    rounds: int | None,
    overrides: Sequence[str],
) -> Iterator[Job]:
    """Yield all runs: seed by seed, so that what is done when it is interrupted can be compared."""
    for model, size in sizes.items():
        composed = {name: _composed(size, name, rounds, overrides) for name in dict.fromkeys([PLAIN, *settings])}
        for place, seed in enumerate(seeds or size.seeds):
            for name, each in composed.items():
                if not seeds and not SETTINGS[name].every_seed and place >= FEWEST_SEEDS:
                    continue
                resolved = {**each.resolved, "seed": seed}
                kind = "8-bit" if SETTINGS[name].eight_bit else "job"
                seeded = replace(each, app=replace(each.app, seed=seed), resolved=resolved)
                yield Job(model=model, setting=name, composed=seeded, key=key_of(resolved, kind))


def _composed(size: Size, setting: str, rounds: int | None, overrides: Sequence[str]) -> Composed:
    last = SETTINGS[setting].rounds
    if rounds is not None:
        last = ceil(last * rounds / PLAIN_ROUNDS)
    return load(["experiment=bytes", *size.overrides, *SETTINGS[setting].overrides, f"num_rounds={last}", *overrides])


def _clients(job: Job) -> int:
    return job.composed.app.num_clients or DEFAULT_CLIENTS


def _versioned(job: Job) -> Curve:
    rows: list[RoundRow] = []
    with tempfile.TemporaryDirectory(prefix="flserve-bench-") as folder:

        def serve(grid: Grid) -> None:
            run_job(grid, job.composed, Path(folder), rows.append)

        federate(job.composed.app.engine, serve, make_client_app(), _clients(job))
    return curve_of(rows)


def _eight_bit(job: Job) -> Curve:
    return run_eight_bit(job.composed.app, _clients(job))


def _said(job: Job, curve: Curve, seconds: float) -> str:
    sent = readable_bytes(curve.payload[-1])
    what = f"{job.model} {job.setting} seed {job.composed.app.seed}"
    return f"{what}: accuracy {curve.accuracy[-1]:.4f} after {len(curve.accuracy)} rounds, {sent}, {seconds:.0f} s"


def _seeds(done: dict[Job, Curve], model: str, setting: str) -> dict[int, Curve]:
    return {job.composed.app.seed: curve for job, curve in done.items() if (job.model, job.setting) == (model, setting)}


def _compared(done: dict[Job, Curve]) -> Iterator[dict[str, Any]]:
    for model, setting in dict.fromkeys((job.model, job.setting) for job in done):
        plain = _seeds(done, model, PLAIN)
        found = _seeds(done, model, setting)
        outcomes = [compare(seed, curve, plain[seed]) for seed, curve in found.items()]
        yield summed_up(setting, model, len(next(iter(found.values())).accuracy), outcomes)


def _draw(folder: Path, done: dict[Job, Curve]) -> None:
    for model in dict.fromkeys(job.model for job in done):
        names = dict.fromkeys(job.setting for job in done if job.model == model)
        curves = {name: list(_seeds(done, model, name).values()) for name in names}
        ends = [each.accuracy[-1] for each in curves[PLAIN]]
        plot(folder / f"bytes-{model}.png", model, curves, goal=sum(ends) / len(ends), margin=MARGIN)


def _behind(row: dict[str, Any]) -> str:
    if row["gap_ci"] is None:
        return f"{row['gap']:+.2f}"
    low, high = row["gap_ci"]
    return f"{row['gap']:+.2f} ({low:+.2f} to {high:+.2f})"
