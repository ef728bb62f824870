"""Which tensors of a model stay with its clients, and how a model is put together from both parts.

The form is JSON: the history it belongs to, the digest of the initial values, and place, name, dtype and shape of
each private tensor. Its SHA-256 is the layout's *key*: who names the key names all of that. A history begins with a
first version and goes on with every run that resumes it; what was learned in one is no start for another.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from flserve_app.artifact import Artifact, TensorSpec, check_specs
from flserve_app.errors import ArtifactError, DeliveryError

MOST_CHARACTERS = 4 << 20
_HISTORY = re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The private part of a model.

    Attributes:
        history: 32 hex digits that name the history.
        start: Hex digest of the artifact of the initial values.
        places: Places of the private tensors in the whole model, ascending from 0 or above.
        specs: Name, dtype and shape of each, in the same order.

    Raises:
        DeliveryError: If a value is not as stated.
    """

    history: str
    start: str
    places: tuple[int, ...]
    specs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        """Refuse what is not as stated."""
        _check(_HISTORY.fullmatch(self.history) is not None, f"history {self.history[:80]!r}")
        _check(_DIGEST.fullmatch(self.start) is not None, f"start {self.start[:80]!r}")
        _check(0 < len(self.places) == len(self.specs), f"{len(self.places)} places for {len(self.specs)} tensors")
        _check(all(type(place) is int and place >= 0 for place in self.places), "a place that is no number")
        _check(list(self.places) == sorted(set(self.places)), "places that do not ascend")
        check_specs(self.specs)

    @property
    def names(self) -> tuple[str, ...]:
        """The private tensors' names, in order."""
        return tuple(spec.name for spec in self.specs)

    @property
    def nbytes(self) -> int:
        """Bytes of the private tensors' data."""
        return sum(spec.nbytes for spec in self.specs)

    @property
    def key(self) -> str:
        """Hex SHA-256 of the layout as JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return the layout as one line of JSON."""
        tensors = [
            [place, spec.name, spec.dtype, list(spec.shape)]
            for place, spec in zip(self.places, self.specs, strict=True)
        ]
        return json.dumps({"history": self.history, "start": self.start, "tensors": tensors}, separators=(",", ":"))

    def parted(self, model: Artifact) -> tuple[Artifact, Artifact]:
        """Return the shared part of a whole model, and its private part."""
        return parted(model, self.names)

    def whole(self, shared: Artifact, private: Artifact) -> Artifact:
        """Return the model whose parts these are, its tensors in their places.

        Raises:
            ArtifactError: If a name is in both.
        """
        if twice := [name for name in self.names if name in shared]:
            raise ArtifactError(f"tensor {twice[0]!r} is private, and among the shared ones as well")
        names = list(shared)
        for place, name in zip(self.places, self.names, strict=True):
            names.insert(place, name)
        specs = {**shared.specs, **private.specs}
        tensors = {name: (private if name in private else shared)[name] for name in names}
        return Artifact.borrowed(tensors, dtypes={name: specs[name].dtype for name in names})


def layout_of(model: Artifact, private: Collection[str], history: str) -> Layout:
    """Return the layout of a whole model, its private tensors those of these names, its values the initial ones."""
    places = tuple(place for place, name in enumerate(model) if name in private)
    kept = parted(model, private)[1]
    return Layout(history=history, start=kept.digest, places=places, specs=tuple(kept.specs.values()))


def parse_layout(text: str) -> Layout:
    """Read what `Layout.to_json` wrote.

    Raises:
        DeliveryError: If it is something else.
    """
    _check(len(text) <= MOST_CHARACTERS, f"{len(text)} characters, at most {MOST_CHARACTERS}")
    try:
        found: dict[str, Any] = json.loads(text)
        rows = [(place, TensorSpec(name, dtype, tuple(shape))) for place, name, dtype, shape in found["tensors"]]
        return Layout(
            history=found["history"],
            start=found["start"],
            places=tuple(place for place, _ in rows),
            specs=tuple(spec for _, spec in rows),
        )
    except (ValueError, TypeError, KeyError, RecursionError, ArtifactError) as error:
        raise DeliveryError(f"private tensors: layout is malformed: {text[:80]!r}") from error


def parted(model: Artifact, private: Collection[str]) -> tuple[Artifact, Artifact]:
    """Return the tensors of a model without the private ones, and the private ones."""
    shared = [name for name in model if name not in private]
    return _only(model, shared), _only(model, [name for name in model if name in private])


def _only(model: Artifact, names: list[str]) -> Artifact:
    return Artifact.borrowed(
        {name: model[name] for name in names}, dtypes={name: model.specs[name].dtype for name in names}
    )


def _check(holds: bool, found: str) -> None:
    if not holds:
        raise DeliveryError(f"private tensors: layout has {found}")
