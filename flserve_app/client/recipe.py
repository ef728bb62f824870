"""Recipes: a model that is built where it is needed, instead of being sent.

A recipe names a model, whole numbers and a seed, and never code. It comes from the server and is bounded before
anything is built; what was built counts only if its digest is the one the delivery names, so a client that builds
otherwise (another release, another platform) is sent the model after all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from flserve_app.artifact import Artifact
from flserve_app.errors import DeliveryError, FlserveError
from flserve_app.text import plain, type_name

if TYPE_CHECKING:  # clients need no catalog: loading it takes longer than a small round
    from flserve_app.store import Serving

MOST_CHARACTERS = 4096
MOST_ARGUMENTS = 32
MOST_DIMENSIONS = 8
LARGEST_NUMBER = 1 << 31
LARGEST_SEED = 1 << 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What it takes to build a model with its initial weights.

    Attributes:
        model_id: Name of the kind of model.
        arguments: Its arguments.
        seed: Decides the weights.
        input_shape: Shape of one input.
        input_dtype: Name of its dtype.
        classes: Number of classes.

    Raises:
        DeliveryError: If a value is not as stated, or out of bounds.
    """

    model_id: str
    arguments: Mapping[str, int | bool]
    seed: int
    input_shape: tuple[int, ...]
    input_dtype: str
    classes: int

    def __post_init__(self) -> None:
        """Refuse what is out of bounds."""
        for name in (self.model_id, self.input_dtype, *self.arguments):
            _check(isinstance(name, str) and _NAME.fullmatch(name) is not None, f"{name!r} is no plain name")
        _check(len(self.arguments) <= MOST_ARGUMENTS, f"{len(self.arguments)} arguments, at most {MOST_ARGUMENTS}")
        _check(0 <= len(self.input_shape) <= MOST_DIMENSIONS, f"an input of {len(self.input_shape)} dimensions")
        for value in (*self.arguments.values(), *self.input_shape, self.classes):
            _check(isinstance(value, int) and 0 <= value < LARGEST_NUMBER, f"{value!r} is no number it may have")
        _check(type(self.seed) is int and 0 <= self.seed < LARGEST_SEED, f"seed {self.seed!r}")

    def to_json(self) -> str:
        """Return the recipe as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


Builder = Callable[[Recipe], Artifact]


@runtime_checkable
class CountingBuilder(Protocol):
    """A builder that says beforehand how large a model is: it is asked before it builds."""

    def __call__(self, recipe: Recipe) -> Artifact:
        """Return the artifact that a recipe stands for."""
        ...

    def nbytes(self, recipe: Recipe) -> int:
        """Return the bytes of that artifact's tensors, without building it."""
        ...


def built(recipe: str, builder: Builder, most_bytes: int) -> Artifact:
    """Return what a recipe names, if it is not too large.

    Args:
        recipe: JSON of the recipe.
        builder: Builds it; asked for the size first if it is a `CountingBuilder`.
        most_bytes: Bytes that its tensors may have.

    Raises:
        DeliveryError: If it is malformed or too large, or the builder raises whatever it may.
    """
    parsed = parse_recipe(recipe)
    try:
        if isinstance(builder, CountingBuilder):
            _check_size(builder.nbytes(parsed), most_bytes)
        artifact = builder(parsed)
        _check(isinstance(artifact, Artifact), f"{parsed.model_id} is built as a {plain(type_name(artifact))}")
        _check_size(artifact.nbytes, most_bytes)
    except DeliveryError:
        raise
    except KeyboardInterrupt:
        raise
    # A builder is somebody's code, run on a server's numbers: whatever it raises, an exit of its own included, the
    # model can still be sent.
    except BaseException as error:
        raise DeliveryError(f"recipe: {parsed.model_id} cannot be built here: {_said(error)}") from error
    return artifact


def parse_recipe(text: str) -> Recipe:
    """Read what `Recipe.to_json` wrote.

    Raises:
        DeliveryError: If it is something else.
    """
    _check(len(text) <= MOST_CHARACTERS, f"{len(text)} characters, at most {MOST_CHARACTERS}")
    try:
        found: dict[str, Any] = json.loads(text)
        return Recipe(**{**found, "arguments": dict(found["arguments"]), "input_shape": tuple(found["input_shape"])})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DeliveryError(f"recipe: malformed: {text[:80]!r}") from error


def recipe_of(serving: Serving | None) -> Recipe | None:
    """Return the recipe in what serving a version takes; None if it has no seed, or does not describe one input."""
    if serving is None or serving.seed is None or len(serving.inputs) != 1:
        return None
    try:
        return Recipe(
            model_id=serving.model_id,
            arguments=dict(serving.arguments),
            seed=serving.seed,
            input_shape=tuple(serving.inputs[0]["shape"][1:]),
            input_dtype=serving.inputs[0]["dtype"],
            classes=len(serving.classes),
        )
    except (DeliveryError, KeyError, TypeError, IndexError):
        return None  # it serves, but nobody can build it from this


def _check_size(nbytes: int, most_bytes: int) -> None:
    _check(nbytes <= most_bytes, f"a model of {nbytes} bytes, at most {most_bytes} are built here")


def _said(error: BaseException) -> str:
    return plain(error) if isinstance(error, FlserveError) else plain(f"{type_name(error)}: {plain(error)}")


def _check(holds: bool, found: str) -> None:
    if not holds:
        raise DeliveryError(f"recipe: {found}")
