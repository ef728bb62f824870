"""`flserve log` and `diff`: looking at what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flserve_app.cli.choice import choose_model, open_store
from flserve_app.cli.options import VERSION_HELP, JsonOption, ModelOption, StoreOption, print_json_list, to_json
from flserve_app.cli.tables import print_table
from flserve_app.registry import Version
from flserve_app.registry.changes import TensorChange, delivery_bytes, tensor_changes
from flserve_app.registry.named import load_named

SHOWN = 100
MOST_METRICS = 4
_FIRST = ("accuracy", "loss")


def log(
    store: StoreOption = None,
    model: ModelOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help=f"Show the newest N versions; default: {SHOWN} in a table, all with --json."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the versions of a model, the newest last."""
    with open_store(store) as registry:
        name = choose_model(registry, model)
        found = registry.catalog.history(name, limit=limit or (None if as_json else SHOWN))
    rows = (_log_row(version, found.labels) for version in found.versions)
    if as_json:
        print_json_list(rows)
    else:
        _print_log(name, list(rows), found.total)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=VERSION_HELP)],
    after: Annotated[str, typer.Argument(metavar="B", help=VERSION_HELP)],
    store: StoreOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed from version A to version B, and what taking a client there costs."""
    with open_store(store) as registry:
        name = choose_model(registry, model)
        found = load_named(registry, name, before, after)
    ends, (old, new) = [version for version, _ in found], (artifact for _, artifact in found)
    changes, sizes = tensor_changes(old, new), delivery_bytes(old, new)
    if as_json:
        tensors = [asdict(change) for change in changes]
        typer.echo(
            to_json({"from": _end(ends[0]), "to": _end(ends[1]), "payload_bytes": dict(sizes), "tensors": tensors})
        )
    else:
        _print_changes(f"{name}: {' to '.join(f'{end.name} ({end.digest[:12]})' for end in ends)}", changes)
        rows = [[codec, f"{size:,}", f"{size / sizes['full']:.3f}"] for codec, size in sizes.items()]
        print_table("payload", ["codec", "bytes", "of full"], rows)


def _print_log(name: str, rows: Sequence[Mapping[str, Any]], total: int) -> None:
    shown = shown_metrics([row["metrics"] for row in rows])
    columns = ["version", "round", "parent", "digest", "codec", "stored", *shown, "labels", "created"]
    cells = [
        [
            row["version"],
            row["round"],
            "" if row["parent"] is None else f"v{row['parent']}",
            row["digest"][:12],
            row["codec"],
            f"{row['stored_bytes']:,}" if row["collected"] is None else "collected",
            *(_figure(_metric(row["metrics"], metric)) for metric in shown),
            " ".join(row["labels"]),
            row["created"][:19].replace("T", " "),
        ]
        for row in rows
    ]
    print_table(
        f"{name}: {total} version{'' if total == 1 else 's'}", columns, cells, figures=shown, optional=shown[2:]
    )
    if hidden := total - len(rows):
        typer.echo(f"{hidden} older version{'' if hidden == 1 else 's'} not shown: --limit {total} shows all")


def _print_changes(title: str, changes: Sequence[TensorChange]) -> None:
    cells = [
        [
            change.name,
            change.dtype,
            "x".join(map(str, change.shape)) or "scalar",
            change.status,
            "" if change.changed is None else f"{change.changed:.2%}",
            _figure(change.max_abs),
            _figure(change.rms),
            change.op or "",
            "" if change.nbytes is None else f"{change.nbytes:,}",
        ]
        for change in changes
    ]
    print_table(title, ["tensor", "dtype", "shape", "status", "changed", "max", "rms", "op", "bytes"], cells)


def _log_row(version: Version, labels: Mapping[str, int]) -> dict[str, Any]:
    return {
        "version": version.name,
        "model": version.model,
        "serial": version.serial,
        "round": version.round,
        "parent": version.parent,
        "digest": version.digest,
        "codec": version.codec,
        "stored_bytes": version.stored,
        "artifact_bytes": version.nbytes,
        "metrics": dict(version.metrics),
        "labels": [label for label, number in labels.items() if number == version.number],
        "collected": None if version.collected is None else version.collected.isoformat(),
        "run": version.run,
        "created": version.created.isoformat(),
    }


def _end(version: Version) -> dict[str, Any]:
    return {"version": version.name, "digest": version.digest}


def shown_metrics(rows: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Return the metrics that get a column, at most `MOST_METRICS`, whatever they are called.

    `accuracy` and `loss` go first where there are such, then what most versions have, and last what training said of
    itself (`train_`). What the clients measured (`client_`) stands in one column with what the server did.
    """
    known = Counter(name.removeprefix("client_") for row in rows for name in row)
    order = sorted(
        known, key=lambda name: (name not in _FIRST, name.startswith("train_"), -known[name], name.lower(), name)
    )
    return tuple(order[:MOST_METRICS])


def _metric(metrics: Mapping[str, float], name: str) -> float | None:
    """Return a metric of the published model, else what the clients measured."""
    return metrics.get(name, metrics.get(f"client_{name}"))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
