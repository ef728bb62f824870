"""Recipes of flserve's own models: from a name, numbers and a seed to the artifact, the same everywhere.

The weights come from numpy's frozen stream, so what is built is what the server published as its first version.
"""

from __future__ import annotations

from flserve_app.artifact import Artifact
from flserve_app.client import Recipe
from flserve_app.task.models import build_model, initial_artifact, model_arguments


def build(recipe: Recipe) -> Artifact:
    """Return the artifact that a recipe stands for.

    Raises:
        TaskError: If there is no such model, or it is too big.
    """
    arguments = model_arguments(recipe.model_id, recipe.arguments)  # first: a key may be the name of another parameter
    model = build_model(
        recipe.model_id,
        input_shape=recipe.input_shape,
        classes=recipe.classes,
        seed=recipe.seed,
        input_dtype=recipe.input_dtype,
        **arguments,
    )
    return initial_artifact(model)
