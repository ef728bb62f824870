"""`flserve export` and `import`: versions to files and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import typer

from flserve_app.artifact import Artifact
from flserve_app.artifact.exchange import to_npz, to_safetensors
from flserve_app.cli.choice import choose_model, is_new, open_store, open_target
from flserve_app.cli.options import MOST_SHOWN, VERSION_HELP, JsonOption, ModelOption, StoreOption, to_json
from flserve_app.errors import NotFound, Overtaken
from flserve_app.registry import Registry, Version, export_bundle
from flserve_app.registry.bundle import check_content, opened_bundle, take_in
from flserve_app.registry.insist import insist
from flserve_app.registry.named import load_named
from flserve_app.registry.output import is_stdout, writing_output
from flserve_app.text import counted, plain

_RANGE = ".."
_ENDINGS = MappingProxyType({".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", ".npz": "npz"})


class Format(StrEnum):
    """File formats that other programs read."""

    SAFETENSORS = "safetensors"
    TORCH = "torch"
    NPZ = "npz"


def export(
    version: Annotated[
        str | None, typer.Argument(help=f"{VERSION_HELP} With --bundle also a range: v3..v9.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; replaced if it is there. - is stdout.")
    ] = None,
    file_format: Annotated[
        Format | None, typer.Option("--format", "-f", help="The file's format; default: what its ending says.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Write a bundle for `flserve import` to this file instead.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --bundle: all versions that have content.")] = False,
    store: StoreOption = None,
    model: ModelOption = None,
) -> None:
    """Write a version to a file that other programs read, or versions to a bundle that another store takes in."""
    file_format = file_format or _format_of(output)
    _check_usage(version, output, file_format, bundle, everything)
    with open_store(store) as registry:
        name = choose_model(registry, model)
        if bundle is not None:
            insist(lambda: _bundle(registry, name, version, bundle))
        elif version is not None and output is not None and file_format is not None:
            ((found, artifact),) = load_named(registry, name, version)
            content = _WRITERS[file_format](artifact)
            with writing_output(output) as file:
                file.write(content)
            _say(output, f"{found.model} {found.name} ({found.digest[:12]}), {len(content):,} bytes")


def import_bundle(
    file: Annotated[Path, typer.Argument(help="A bundle, as `flserve export --bundle` writes it.")],
    store: StoreOption = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Name the versions shall have; default: that in the bundle.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take the versions of a bundle into a store, which is made if it is not there; all is checked first."""
    with opened_bundle(file, model=model) as bundle:
        if new := is_new(store):
            check_content(bundle)  # what is refused leaves no empty store behind
        with open_target(store) as registry:
            taken = take_in(registry, bundle, checked=new)
    if as_json:
        typer.echo(to_json({"model": taken.model, "added": taken.added, "present": taken.present}))
    else:
        present = f", {len(taken.present)} there already" if taken.present else ""
        typer.echo(f"{plain(taken.model)}: {counted(len(taken.added), 'version')} added{_span(taken.added)}{present}")


def _format_of(output: Path | None) -> Format | None:
    named = None if output is None else _ENDINGS.get(output.suffix.lower())
    return None if named is None else Format(named)


def _check_usage(
    version: str | None, output: Path | None, file_format: Format | None, bundle: Path | None, everything: bool
) -> None:
    if bundle is None:
        if version is None or output is None or file_format is None or everything:
            endings = ", ".join(_ENDINGS)
            raise typer.BadParameter(f"name VERSION with --output FILE ({endings}, or --format), or use --bundle")
    elif output is not None or file_format is not None:
        raise typer.BadParameter("--bundle goes without --output and --format")
    elif (version is None) != everything:
        raise typer.BadParameter("--bundle takes VERSION, a range as v3..v9, or --all")


def _chosen(registry: Registry, model: str, ref: str | None) -> list[Version]:
    """Return the versions that a reference or a range names; of several those that are not collected."""
    if ref is not None and _RANGE not in ref:
        return [registry.resolve(model, ref)]
    versions = registry.versions(model) if ref is None else registry.catalog.between(model, *ref.split(_RANGE, 1))
    found = [version for version in versions if version.collected is None]
    if not found:
        raise NotFound(f"model {model!r} has no content from {ref or 'first to last'}: nothing to bundle")
    return found


def _bundle(registry: Registry, model: str, ref: str | None, path: Path) -> None:
    versions = _chosen(registry, model, ref)
    try:
        contents = export_bundle(registry, versions, path)
    except NotFound as error:
        if _chosen(registry, model, ref) == versions:
            raise
        raise Overtaken(f"{ref or 'what there is'} of {model!r} changed while it was bundled") from error
    payloads = sum(edge.nbytes for edge in contents.payloads)
    nbytes = f"{payloads:,} bytes of payload" if is_stdout(path) else f"{path.stat().st_size:,} bytes"
    what = f"{contents.model}, {counted(len(contents.versions), 'version')}{_span(tuple(contents.versions))}"
    _say(path, f"{what}, {counted(len(contents.payloads), 'payload')}, {nbytes}")


def _say(path: Path, what: str) -> None:
    """Say what was written, where it does not mingle with it."""
    typer.echo(plain(f"{path}: {what}", MOST_SHOWN), err=is_stdout(path))


def _span(numbers: tuple[int, ...]) -> str:
    if not numbers:
        return ""
    return f" (v{numbers[0]})" if len(numbers) == 1 else f" (v{numbers[0]} to v{numbers[-1]})"


def _to_torch(artifact: Artifact) -> bytes:
    import torch

    from flserve_app.task.state import to_state_dict

    content = BytesIO()
    torch.save(to_state_dict(artifact), content)
    return content.getvalue()


_WRITERS: Mapping[Format, Callable[[Artifact], bytes]] = MappingProxyType(
    {Format.SAFETENSORS: to_safetensors, Format.TORCH: _to_torch, Format.NPZ: to_npz}
)
