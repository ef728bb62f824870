"""Recipes of flserve's own models: from a name, numbers and a seed to the artifact, the same everywhere.

The weights come from numpy's frozen stream, so what is built is what the server published as its first version.
Whoever follows a recipe asks `build.nbytes` first: a few numbers may stand for gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from flserve_app.artifact import Artifact
from flserve_app.client import Recipe
from flserve_app.task.models import build_model, initial_artifact, model_arguments, model_nbytes


@final
class ModelBuilder:
    """Builds flserve's own models; a `CountingBuilder`."""

    def __call__(self, recipe: Recipe) -> Artifact:
        """Return the artifact that a recipe stands for.

        Raises:
            TaskError: If there is no such model, or it is too big.
        """
        return initial_artifact(_with(recipe, build_model, seed=recipe.seed))

    def nbytes(self, recipe: Recipe) -> int:
        """Return the bytes of that artifact's tensors; nothing is built for it.

        Raises:
            TaskError: As for building it.
        """
        nbytes: int = _with(recipe, model_nbytes)
        return nbytes


def _with(recipe: Recipe, function: Callable[..., Any], **more: int) -> Any:
    arguments = model_arguments(recipe.model_id, recipe.arguments)  # first: a key may be the name of another parameter
    return function(
        recipe.model_id,
        input_shape=recipe.input_shape,
        classes=recipe.classes,
        input_dtype=recipe.input_dtype,
        **more,
        **arguments,
    )


build = ModelBuilder()
