"""`flserve show`: all that is known of one version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from flserve_app.artifact import Artifact
from flserve_app.cli.choice import choose_model, open_store
from flserve_app.cli.options import MOST_SHOWN, VERSION_HELP, JsonOption, ModelOption, StoreOption, to_json
from flserve_app.cli.tables import print_table
from flserve_app.registry import Version
from flserve_app.registry.named import load_named
from flserve_app.text import plain


def show(
    version: Annotated[str, typer.Argument(help=VERSION_HELP)] = "latest",
    store: StoreOption = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one version: where it comes from, what was measured on it, what serving it takes, and its tensors."""
    with open_store(store) as registry:
        name = choose_model(registry, model)
        (found, labels), artifact = registry.catalog.labelled(name, version), None
        if found.collected is None:
            ((_, artifact),) = load_named(registry, name, found.name)  # a label may have moved on since
        run = next((each for each in registry.runs(name) if each.run == found.run), None)
    told = _told(found, list(labels), None if run is None else run.state)
    if as_json:
        typer.echo(to_json({**told, "tensors": None if artifact is None else _tensors(artifact)}))
        return
    typer.echo(f"{plain(found.model)} {found.name}")
    for key, value in told.items():
        if key not in ("model", "version") and value not in (None, [], {}):
            typer.echo(f"  {key.replace('_', ' '):<15} {plain(_readable(value), MOST_SHOWN)}")
    if artifact is not None:
        rows = [[row["name"], row["dtype"], "x".join(map(str, row["shape"])) or "scalar"] for row in _tensors(artifact)]
        print_table("", ["tensor", "dtype", "shape"], rows)


def _told(version: Version, labels: list[str], state: str | None) -> dict[str, Any]:
    serving = version.serving
    return {
        "model": version.model,
        "version": version.name,
        "digest": version.digest,
        "round": version.round,
        "parent": None if version.parent is None else f"v{version.parent}",
        "labels": labels,
        "created": version.created.isoformat(timespec="seconds"),
        "collected": None if version.collected is None else version.collected.isoformat(timespec="seconds"),
        "run": version.run,
        "run_state": state,
        "codec": version.codec,
        "stored_bytes": version.stored,
        "artifact_bytes": version.nbytes,
        "metrics": dict(version.metrics),
        "built_as": None if serving is None else serving.model_id,
        "arguments": {} if serving is None else dict(serving.arguments),
        "classes": [] if serving is None else list(serving.classes),
    }


def _tensors(artifact: Artifact) -> list[dict[str, Any]]:
    return [{"name": name, "dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in artifact.specs.items()]


def _readable(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {each:.6g}" if isinstance(each, float) else f"{key} {each}" for key, each in value.items()
        )
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
