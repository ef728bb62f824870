"""Ties: tensors of one artifact that are the same to the last bit, and travel once.

A model that uses one tensor in two places (an embedding that is its head, too) lists it under two names. Rules:
- Ties are found by content: same dtype, same shape, same bytes, whatever the names say. Tensors that came to be the
  same by chance are as good.
- A tensor is tied to the first one like it, never to one that is tied itself.
- What is tied stays tied when it is rounded: where that cannot be, none of these tensors is rounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from flserve_app.artifact import Artifact, TensorSpec, byte_view
from flserve_app.artifact.digest import tree_digests
from flserve_app.codec.wire import varint

_GLIMPSE = 64  # bytes of a tensor, spread over it, by which nearly all that differ are told apart


def ties_of(artifact: Artifact) -> dict[str, str]:
    """Return the name of the first tensor that is the same, of each that is not the first; empty tensors are none.

    Unless the artifact is hashed, only tensors that look alike are hashed for it.
    """
    alike = _alike(artifact)
    if not alike:
        return {}
    if artifact.is_hashed:
        digests = dict(zip(artifact, artifact.manifest.digests, strict=True))
    else:
        digests = dict(zip(alike, tree_digests([byte_view(artifact[name]) for name in alike]), strict=True))
    first: dict[tuple[str, tuple[int, ...], str], str] = {}
    found = {}
    for name in alike:
        spec = artifact.specs[name]
        leader = first.setdefault((spec.dtype, spec.shape, digests[name]), name)
        if leader != name:
            found[name] = leader
    return found


def places_of(artifact: Artifact) -> dict[str, int]:
    """Return the place of the first tensor that is the same, of each for which saying so takes less than its bytes."""
    places = {name: at for at, name in enumerate(artifact)}
    found = {name: places[first] for name, first in ties_of(artifact).items()}
    return {name: at for name, at in found.items() if len(varint(at)) < artifact.specs[name].nbytes}


def rounded_alike(
    target: Artifact, base: Artifact, steps: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the steps of the tensors that may be rounded so that what is tied stays tied, and these ties.

    Args:
        target: What is to be rounded.
        base: What the changes are taken from.
        steps: The step of each tensor that would be rounded.
    """
    ties = ties_of(target)
    if not ties:
        return dict(steps), {}
    held = ties_of(base)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, first in ties.items():
        groups[first].append(name)
    kept, tied = dict(steps), dict[str, str]()
    for first, names in groups.items():
        leader = held.get(first, first)
        if all(held.get(name, name) == leader and steps.get(name) == steps.get(first) for name in names):
            tied |= dict.fromkeys(names, first)
        else:
            for name in (first, *names):
                kept.pop(name, None)
    return kept, tied


def _alike(artifact: Artifact) -> list[str]:
    """Return the names, in order, of tensors that may be the same as another one."""
    by_form: defaultdict[tuple[str, tuple[int, ...]], list[TensorSpec]] = defaultdict(list)
    for spec in artifact.specs.values():
        if spec.nbytes:
            by_form[spec.dtype, spec.shape].append(spec)
    found: set[str] = set()
    for specs in by_form.values():
        if len(specs) == 1:
            continue
        looks: defaultdict[bytes, list[str]] = defaultdict(list)
        for spec in specs:
            looks[_glimpse(artifact, spec.name)].append(spec.name)
        found.update(name for names in looks.values() if len(names) > 1 for name in names)
    return [name for name in artifact if name in found]


def _glimpse(artifact: Artifact, name: str) -> bytes:
    values = np.frombuffer(byte_view(artifact[name]), np.uint8)
    # An odd stride meets all bytes of an item, not the exponents alone.
    return values[:: (values.size // _GLIMPSE) | 1].tobytes()
