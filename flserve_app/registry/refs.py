"""How people name a version: `latest`, a label, `v12`, `12`, or the start of a digest.

A pure function on values. A label can read neither like a number nor like a digest, so nothing is ambiguous
but a digest that was published twice: it then names its newest version.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flserve_app.errors import NotFound
from flserve_app.store import Version

_NUMBER = re.compile(r"v?([0-9]{1,18})")
_DIGEST = re.compile(r"[0-9a-f]{6,64}")


def resolve(ref: str, versions: Sequence[Version], labels: Mapping[str, int]) -> Version:
    """Return the version of one model that a reference names.

    Args:
        ref: What was typed.
        versions: All versions of the model, by number; at least one.
        labels: Label to number.

    Raises:
        NotFound: If it names none, or several.
    """
    by_number = {version.number: version for version in versions}
    if ref in labels and labels[ref] in by_number:
        return by_number[labels[ref]]
    if (match := _NUMBER.fullmatch(ref)) and int(match[1]) in by_number:
        return by_number[int(match[1])]
    if _DIGEST.fullmatch(ref):
        found = [version for version in versions if version.digest.startswith(ref)]
        if (count := len({version.digest for version in found})) > 1:
            raise NotFound(f"{ref!r} is the start of {count} digests of model {versions[0].model!r}; add digits")
        if found:
            return found[-1]
    raise NotFound(f"model {versions[0].model!r} has no version {ref!r}; it has {_choices(versions, labels)}")


def _choices(versions: Sequence[Version], labels: Mapping[str, int]) -> str:
    span = versions[0].name if len(versions) == 1 else f"{versions[0].name} to {versions[-1].name}"
    named = ", ".join(f"{label} (v{number})" for label, number in labels.items())
    return f"{span}, labels {named}, and digests by their first 6 or more digits"
