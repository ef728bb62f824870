"""`flserve run` and `flserve bench`: running and measuring.

Both import Flower, torch and Hydra only when they are called.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flserve_app.cli.options import JsonOption, listed, numbers, to_json
from flserve_app.errors import ConfigError

bench_app = typer.Typer(help="Measure flserve against its peers, on this machine.", no_args_is_help=True)

# Everything after `flserve run` is Hydra's, its options too.
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def run(context: typer.Context) -> None:
    """Run an experiment (task=synthetic seed=7), or a sweep of them (-m codec=full,lossless).

    Settings are Hydra overrides, key=value; `flserve run --help` shows the common ones, `--cfg job` all.
    """
    if {"--help", "-h"} & set(context.args):
        typer.echo(_run_help())
        return
    from flserve_app.experiments.sweep import run as run_experiment

    run_experiment(_resumed(context.args))


def _resumed(arguments: list[str]) -> list[str]:
    if not any(each.startswith("--resume") for each in arguments):
        return arguments
    from flserve_app.experiments.going_on import going_on

    return going_on(arguments)


def _run_help() -> str:
    from flserve_app.config import conf_dir

    known = {path.name: sorted(each.stem for each in path.glob("*.yaml")) for path in conf_dir().iterdir()}
    return f"""Usage: flserve run [-m] [--resume RUN] [KEY=VALUE ...]

Run an experiment; with -m a sweep, one job for each combination of values (KEY=A,B).

  flserve run                                    digits, 10 clients, 10 rounds
  flserve run task=synthetic seed=7              every task brings the model that fits it
  flserve run experiment=tutorial codec=topk uplink=topk
  flserve run -m codec=full,lossless seed=1,2    four jobs, and sweep.csv beside them
  flserve run --resume outputs/DAY/TIME num_rounds=20    goes on with that run's settings, in its store

What to run (one of those named; conf/ has a file for each):
  task        {" ".join(known["task"])}
  model       {" ".join(known["model"])}
  strategy    {" ".join(known["strategy"])}
  codec       {" ".join(known["codec"])}: how versions travel to the clients
  uplink      {" ".join(known["uplink"])}: how updates travel back
              (full: whole models; lossless: the difference, bit for bit; grid, topk: rounded differences)
  experiment  {" ".join(known["experiment"])}: several settings at once

How:
  num_rounds=10 num_clients=10 seed=42
  engine=simulation     Flower's engine; inprocess needs no start-up and suits small jobs
  store=DIR             a shared store, or a run's folder; model_name=NAME names the versions, resume=true goes on
                        with its last version (seed, task, model, roles, num_clients have to be as before)
  train.epochs train.lr train.batch_size train.momentum strategy.clients_per_round ...; --cfg job shows every key

A run goes to outputs/DAY/TIME, a sweep to outputs/multirun/DAY/TIME, below FLSERVE_OUTPUTS if it is set; hydra.run.dir
and hydra.sweep.dir name others. FLSERVE_STORE names a store for all commands. --hydra-help has Hydra's own options."""


@bench_app.command("codec")
def bench_codec(
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds that come before the measured one.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 42,
    repeats: Annotated[int, typer.Option(min=1, help="Timings; medians are shown.")] = 5,
    task: Annotated[str, typer.Option(help="Images to train on: digits, or mnist5k (extra: mnist).")] = "digits",
) -> None:
    """Compare codecs on consecutive FedAvg checkpoints of a CNN, with peers (extra: bench)."""
    from flserve_app.experiments import bench_codec as bench

    bench.show(bench.run(rounds=rounds, seed=seed, repeats=repeats, task=task))


@bench_app.command("lossy")
def bench_lossy(
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds that come before the measured one.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 42,
    repeats: Annotated[int, typer.Option(min=1, help="Timings; the fastest is shown.")] = 5,
    task: Annotated[str, typer.Option(help="Images to train on: digits, or mnist5k (extra: mnist).")] = "digits",
    width: Annotated[int, typer.Option(min=1, help="Width of the CNN.")] = 16,
    megabytes: Annotated[int, typer.Option(min=4, help="Size of the model that is timed, 10**6 bytes.")] = 100,
) -> None:
    """Show what rounding codecs make of an update, against its entropy, and how fast they are."""
    from flserve_app.experiments import bench_lossy as bench

    bench.show(
        bench.sizes(rounds=rounds, seed=seed, task=task, width=width),
        bench.speeds(megabytes=megabytes, repeats=repeats),
    )


@bench_app.command("peers")
def bench_peers(
    rounds: Annotated[int, typer.Option(min=1, help="Federated rounds that come before the measured one.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 42,
    repeats: Annotated[int, typer.Option(min=1, help="Timings; the fastest is shown.")] = 3,
    task: Annotated[str, typer.Option(help="Images to train on: digits, or mnist5k (extra: mnist).")] = "digits",
    width: Annotated[int | None, typer.Option(min=1, help="Width of the CNN; default: the task's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what rounding codecs take at the error of QSGD, DRIVE, EDEN and of what else is installed."""
    from flserve_app.experiments import bench_peers as bench

    rows, missing = bench.run(rounds=rounds, seed=seed, repeats=repeats, task=task, width=width)
    if as_json:
        typer.echo(to_json({"rows": [asdict(row) for row in rows], "missing": missing}))
    else:
        bench.show(rows, missing)


@bench_app.command("plan")
def bench_plan(
    megabytes: Annotated[float, typer.Option(min=0.5, help="Size of the model, 10**6 bytes.")] = 4.0,
    versions: Annotated[int, typer.Option(min=2, help="Versions in the history.")] = 50,
    clients: Annotated[int, typer.Option(min=1, help="Clients in the round.")] = 1000,
    bases: Annotated[str, typer.Option(help="Distinct versions that they hold, a round each.")] = "5,49",
    as_json: JsonOption = False,
) -> None:
    """Show what a round with many clients costs the server: payloads made, and the time to plan each delivery."""
    from flserve_app.experiments import bench_plan as bench

    counts = numbers(bases, "--bases")
    if not counts or 0 in counts:
        raise ConfigError(f"--bases is {bases!r}, expected numbers above 0, as in 5,49")
    found = list(bench.rounds(megabytes=megabytes, versions=versions, clients=clients, bases=counts))
    if as_json:
        typer.echo(to_json([asdict(each) for each in found]))
    else:
        bench.show(found)


@bench_app.command("big")
def bench_big(
    gigabytes: Annotated[float, typer.Option(min=0.01, help="Size of the model, 2**30 bytes.")] = 1.0,
    cap: Annotated[float, typer.Option(help="Gigabytes the process may take for its data.")] = 9.0,
) -> None:
    """Take a large model through codec, store and a federated round, under a cap on memory."""
    from flserve_app.experiments import bench_big as bench

    bench.show(bench.run(gigabytes=gigabytes, cap_gigabytes=cap), gigabytes=gigabytes, cap_gigabytes=cap)


@bench_app.command("round")
def bench_round(
    rounds: Annotated[int | None, typer.Option(min=1, help="Counted rounds of a turn; 5, on a SuperLink 2.")] = None,
    turns: Annotated[int | None, typer.Option(min=1, help="Turns that each side takes; 3, on a SuperLink 2.")] = None,
    engine: Annotated[
        str, typer.Option(help="What the clients run in: simulation, inprocess or superlink.")
    ] = "simulation",
    codec: Annotated[str, typer.Option(help="Codec of delivery and updates.")] = "lossless",
) -> None:
    """Compare a round with versions to a round of plain Flower, on the same job, taking turns.

    With `--engine superlink` a SuperLink and four SuperNodes run on loopback for the time of the measurement.
    """
    from flserve_app.experiments import bench_round as bench

    bench.show(bench.run(rounds=rounds, turns=turns, engine=engine, codec=codec))


@bench_app.command("network")
def bench_network(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides: another model, another codec, its arguments.")
    ] = None,
    mbit: Annotated[float, typer.Option(help="Rate of every node's link, Mbit/s each way.")] = 20.0,
    nodes: Annotated[int, typer.Option(help="SuperNodes.")] = 2,
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of plain Flower; twice as many with versions.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Race versions against plain Flower over slow links, to an accuracy (Linux, as root, with iproute2).

    A SuperLink and its SuperNodes run in network namespaces for the time of the measurement: 10 to 20 minutes.
    """
    from flserve_app.experiments import bench_network as bench

    report = bench.run(overrides or [], mbit=mbit, nodes=nodes, rounds=rounds)
    if as_json:
        typer.echo(to_json(bench.as_json(report)))
    else:
        bench.show(report)


@bench_app.command("bytes")
def bench_bytes(
    overrides: Annotated[list[str] | None, typer.Argument(help="Hydra overrides, the same for every run.")] = None,
    settings: Annotated[str, typer.Option(help="Settings, with commas between; default: all.")] = "",
    models: Annotated[str, typer.Option(help="Models: small, large or both; default: both.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, as 0,3 or 0-9; default: those a setting is meant to have.")] = "",
    rounds: Annotated[
        int | None,
        typer.Option(min=1, help="Rounds of plain FedAvg; the others have up to half as many more. Default: 40."),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--out", help="Folder of finished runs; started again, what is there is not run again.")
    ] = Path("outputs/bench-bytes"),
    plot: Annotated[bool, typer.Option("--plot", help="Draw a PNG a model into the folder (extra: plot).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the bytes it takes to plain FedAvg's accuracy, paired by seed (extra: mnist)."""
    from flserve_app.experiments import bench_bytes as bench

    rows = bench.run(
        folder,
        settings=listed(settings),
        models=listed(models),
        seeds=numbers(seeds, "--seeds"),
        rounds=rounds,
        overrides=overrides or [],
        draw=plot,
        note=partial(typer.echo, err=True),
    )
    if as_json:
        typer.echo(to_json(rows))
    else:
        bench.show(rows)


@bench_app.command("startup")
def bench_startup(
    project: Annotated[
        Path | None, typer.Option(help="flserve's folder, to profile `flwr run` of it too; starts a SuperLink.")
    ] = None,
) -> None:
    """Show where the time goes before the first round and after the last."""
    from flserve_app.experiments import bench_startup as bench

    bench.show(bench.run(None if project is None else project.absolute()))
