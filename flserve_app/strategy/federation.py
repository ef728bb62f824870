"""What tells one history of a model from another of the same name, in another store: clients keep them apart by it.

The name is made of when and as what the history began. A run that is resumed has the same, and so has
one that goes on from an imported history; other stores have others. Before the first version is published it is one
that nobody knows, as nobody can hold anything of that history.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import final

from flserve_app.registry import Registry


@final
class Federation:
    """The history of a model in a store.

    Args:
        registry: The store.
        model: The model's name.
    """

    def __init__(self, registry: Registry, model: str) -> None:
        self._registry = registry
        self._model = model
        self._name = ""

    @property
    def name(self) -> str:
        """64 hex digits."""
        if not self._name and self._registry.exists(self._model):
            first = self._registry.versions(self._model)[0]
            facts = [self._model, first.number, first.digest, first.created.isoformat()]
            self._name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        return self._name or secrets.token_hex(32)
