"""`flserve log`, `diff` and `export`: looking at what was published."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from flserve_app.artifact import Artifact
from flserve_app.artifact.exchange import to_npz, to_safetensors
from flserve_app.cli.choice import choose_model, open_store
from flserve_app.cli.tables import print_table
from flserve_app.registry import Version
from flserve_app.registry.changes import TensorChange, delivery_bytes, tensor_changes
from flserve_app.store import write_file

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Store or run folder; default: the newest below outputs/.")
]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name; default: the only one in the store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
VERSION_HELP = "latest, a label, v12, 12, or the start of a digest."


class Format(StrEnum):
    """File formats that other programs read."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    NPZ = "npz"


def log(store: StoreOption = None, model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Show the versions of a model."""
    with open_store(store) as registry:
        name = choose_model(registry, model)
        rows = [_log_row(version, registry.labels(name)) for version in registry.versions(name)]
    if as_json:
        typer.echo(_json(rows))
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
            _json({"from": _end(ends[0]), "to": _end(ends[1]), "payload_bytes": dict(sizes), "tensors": tensors})
        )
    else:
        _print_changes(f"{name}: {' to '.join(f'{end.name} ({end.digest[:12]})' for end in ends)}", changes)
        rows = [[codec, f"{size:,}", f"{size / sizes['full']:.3f}"] for codec, size in sizes.items()]
        print_table("payload", ["codec", "bytes", "of full"], rows)


def export(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; replaced if it is there.")],
    file_format: Annotated[Format, typer.Option("--format", "-f", help="The file's format.")],
    store: StoreOption = None,
    model: ModelOption = None,
) -> None:
    """Write a version to a file that other programs read."""
    with open_store(store) as registry:
        found = registry.resolve(choose_model(registry, model), version)
        content = _WRITERS[file_format](registry.load(found))
    write_file(output, content)
    typer.echo(f"{output}: {found.model} {found.name} ({found.digest[:12]}), {len(content):,} bytes")


def _print_log(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = ["version", "round", "parent", "digest", "codec", "stored", "accuracy", "loss", "labels", "created"]
    cells = [
        [
            row["version"],
            row["round"],
            "" if row["parent"] is None else f"v{row['parent']}",
            row["digest"][:12],
            row["codec"],
            f"{row['stored_bytes']:,}",
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


def _to_torch(artifact: Artifact) -> bytes:
    import torch

    from flserve_app.task.state import to_state_dict

    content = BytesIO()
    torch.save(to_state_dict(artifact), content)
    return content.getvalue()


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


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    """Return a value with None for what JSON has no number for."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


_WRITERS: Mapping[Format, Callable[[Artifact], bytes]] = MappingProxyType(
    {Format.SAFETENSORS: to_safetensors, Format.TORCH: _to_torch, Format.NPZ: to_npz}
)
