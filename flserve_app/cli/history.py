"""`flserve log` and `diff`: looking at what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flserve_app.cli.choice import choose_model, open_store
from flserve_app.cli.options import VERSION_HELP, JsonOption, ModelOption, StoreOption, to_json
from flserve_app.cli.tables import print_table
from flserve_app.registry import Version
from flserve_app.registry.changes import TensorChange, delivery_bytes, tensor_changes


def log(store: StoreOption = None, model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Show the versions of a model."""
    with open_store(store) as registry:
        name = choose_model(registry, model)
        rows = [_log_row(version, registry.labels(name)) for version in registry.versions(name)]
    if as_json:
        typer.echo(to_json(rows))
    else:
        _print_log(name, rows)


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
        ends = registry.resolve(name, before), registry.resolve(name, after)
        old, new = (registry.load(version) for version in ends)
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


def _print_log(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = ["version", "round", "parent", "digest", "codec", "stored", "accuracy", "loss", "labels", "created"]
    cells = [
        [
            row["version"],
            row["round"],
            "" if row["parent"] is None else f"v{row['parent']}",
            row["digest"][:12],
            row["codec"],
            f"{row['stored_bytes']:,}" if row["collected"] is None else "collected",
            _figure(_metric(row["metrics"], "accuracy")),
            _figure(_metric(row["metrics"], "loss")),
            " ".join(row["labels"]),
            row["created"][:19].replace("T", " "),
        ]
        for row in rows
    ]
    print_table(f"{name}: {len(rows)} version{'' if len(rows) == 1 else 's'}", columns, cells)


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


def _log_row(version: Version, labels: dict[str, int]) -> dict[str, Any]:
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


def _metric(metrics: Mapping[str, float], name: str) -> float | None:
    """Return a metric of the published model, else what the clients measured."""
    return metrics.get(name, metrics.get(f"client_{name}"))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
