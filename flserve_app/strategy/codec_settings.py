"""Which codecs a run uses: a lossy one where that is asked for, and the exact one beside it or in its place."""

from __future__ import annotations

from dataclasses import replace

from flserve_app.artifact.roles import Roles
from flserve_app.codec.lossy import Lossy, lossy_of

EXACT = "lossless-small"  # what takes a client from any version to any other where deliveries are rounded


def settled(codec: str | Lossy, roles: Roles) -> tuple[Lossy | None, str]:
    """Return the settings of a lossy codec, and the exact codec that is used beside it or in its place.

    Args:
        codec: Name of a codec, or the settings of a lossy one.
        roles: What tensors are for.
    """
    lossy = lossy_of(codec, {}) if isinstance(codec, str) else codec
    return (None, str(codec)) if lossy is None else (replace(lossy, roles=roles), EXACT)
