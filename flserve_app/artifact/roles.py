"""What a tensor is for: it decides how it may travel.

A `weight` is trained and may be rounded. A `statistic` (the running mean and variance of a norm layer) is measured
and a `buffer` (a counter, a mask, an index) is neither: both are kept exact. Roles come from patterns of names, the
first that fits, and from the dtype: whatever is no real float is a buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal

from flserve_app.artifact.artifact import Artifact
from flserve_app.artifact.dtypes import dtype_named

Role = Literal["weight", "statistic", "buffer"]

PATTERNS: Mapping[str, Role] = MappingProxyType(
    {
        "*running_mean": "statistic",
        "*running_var": "statistic",
        "*num_batches_tracked": "buffer",
    }
)


def roles(artifact: Artifact, patterns: Mapping[str, Role] = PATTERNS) -> dict[str, Role]:
    """Return the role of each tensor, by name.

    Args:
        artifact: The tensors.
        patterns: Shell-style patterns of names (`*` and `?`, case matters) and what they stand for.
    """
    return {name: _role(name, spec.dtype, patterns) for name, spec in artifact.specs.items()}


def kept_exact(artifact: Artifact, patterns: Mapping[str, Role] = PATTERNS) -> frozenset[str]:
    """Return the names of the tensors that must not be rounded."""
    return frozenset(name for name, role in roles(artifact, patterns).items() if role != "weight")


def _role(name: str, dtype: str, patterns: Mapping[str, Role]) -> Role:
    found = dtype_named(dtype)
    if found.kind != "float" or found.words_per_item != 1:
        return "buffer"
    return next((role for pattern, role in patterns.items() if fnmatchcase(name, pattern)), "weight")
