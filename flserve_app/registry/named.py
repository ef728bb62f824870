"""Versions by what people call them, with their content, beside writers that move names and collect what they left.

Between the moment a name is looked up and the one its content is read, `latest` can move on and a collection take
what it left. Then the name stands for another version, and that one is meant. A name that stands for the same version
still, whose content is gone, is told so.
"""

from __future__ import annotations

from flserve_app.artifact import Artifact
from flserve_app.errors import NotFound, Overtaken
from flserve_app.registry.insist import insist
from flserve_app.registry.registry import Registry
from flserve_app.store import Version


def load_named(registry: Registry, model: str, *refs: str) -> tuple[tuple[Version, Artifact], ...]:
    """Return the versions that names stand for at one moment, with their artifacts, verified.

    Args:
        registry: The store.
        model: Name of the model.
        refs: Names of its versions; see `Registry.resolve`.

    Raises:
        NotFound: If one stands for none or several, or for one whose content was collected.
        CorruptBlob: If what the store holds is damaged.
        CodecError: If a payload cannot be decoded.
    """
    return insist(lambda: _load(registry, model, refs))


def _load(registry: Registry, model: str, refs: tuple[str, ...]) -> tuple[tuple[Version, Artifact], ...]:
    versions = registry.catalog.resolve(model, *refs)
    try:
        return tuple((version, registry.load(version)) for version in versions)
    except NotFound as error:
        now = registry.catalog.resolve(model, *refs)
        if [version.serial for version in now] != [version.serial for version in versions]:
            raise Overtaken(f"{', '.join(refs)} of {model!r} moved on while it was read") from error
        raise
