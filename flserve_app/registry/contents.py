"""What a bundle contains: its `manifest.json`, to bytes and back.

The manifest is ASCII JSON with sorted keys and no white space, so equal contents have equal bytes:

    {"format": 2, "kind": "flserve-bundle", "model": name,
     "payloads": [{"base": digest or null, "blob": SHA-256, "codec": name, "nbytes": n, "target": digest}, ...],
     "servings": [what serving takes, ...], "sizes": {digest: bytes of the artifact},
     "versions": [{"codec", "created", "digest", "metrics", "number", "parent", "round", "serving"}, ...]}

Versions are in the order of their numbers; a parent outside the bundle is null; `serving` is null or a place in
`servings`, which has each once, in the order of their first use. In format 1 each version has its own instead.
Runs and labels stay at home, as they say where and by whom. Every byte of a bundle is named here by its SHA-256,
and every artifact by its digest: whoever signs the manifest signs the bundle. `manifest` reads it and trusts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flserve_app.errors import StoreError
from flserve_app.registry.scanner import canonical
from flserve_app.store import Draft, Edge, Version
from flserve_app.store.bounds import serving_to_json
from flserve_app.store.rows import metrics_to_json, time_to_text

FORMAT = 2
KIND = "flserve-bundle"
MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a bundle contains.

    Attributes:
        model: Name of the model.
        versions: Number to the version as it was published, by number.
        payloads: Payloads that make them, each after the one that makes its base.
        sizes: Digest to bytes of every artifact that the payloads make.
    """

    model: str
    versions: Mapping[int, Draft]
    payloads: tuple[Edge, ...]
    sizes: Mapping[str, int]


def draft_of(version: Version, parent: int | None) -> Draft:
    """Return a version as it was published, without the run and with the given parent."""
    return Draft(
        model=version.model,
        digest=version.digest,
        nbytes=version.nbytes,
        parent=parent,
        round=version.round,
        run=None,
        codec=version.codec,
        metrics=version.metrics,
        created=version.created,
        serving=version.serving,
    )


def to_json(contents: Contents) -> bytes:
    """Return the manifest.

    Raises:
        StoreError: If it is too large, or something in it is no JSON.
    """
    places: dict[str, int] = {}
    servings: list[dict[str, Any]] = []
    entries = []
    try:
        for number, draft in contents.versions.items():
            place = None
            if draft.serving is not None:
                serving = serving_to_json(draft.serving)
                place = places.setdefault(canonical(serving), len(places))
                servings += [serving] if place == len(servings) else []
            entries.append(_version_to_json(number, draft, place))
        value = {
            "format": FORMAT,
            "kind": KIND,
            "model": contents.model,
            "payloads": [
                {"target": one.target, "base": one.base, "codec": one.codec, "blob": one.blob, "nbytes": one.nbytes}
                for one in contents.payloads
            ],
            "servings": servings,
            "sizes": dict(contents.sizes),
            "versions": entries,
        }
        data = canonical(value).encode("ascii")
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"bundle: what serving takes is not JSON with finite numbers ({error})") from error
    if len(data) > MAX_MANIFEST_BYTES:
        raise StoreError(
            f"bundle: its manifest would have {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are allowed: bundle the "
            "versions range by range"
        )
    return data


def _version_to_json(number: int, draft: Draft, serving: int | None) -> dict[str, Any]:
    return {
        "number": number,
        "digest": draft.digest,
        "parent": draft.parent,
        "round": draft.round,
        "codec": draft.codec,
        "metrics": metrics_to_json(draft.metrics),
        "created": time_to_text(draft.created),
        "serving": serving,
    }
