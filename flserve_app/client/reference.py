"""One client's reference to one held version, as a value and as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from flserve_app.errors import StoreError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a client holds of a model.

    Attributes:
        model: Name the version was published under.
        version: Its number; -1 for an artifact that was never published.
        digest: Hex digest of its artifact.
        private: Key of the layout of the tensors that belong to it and are the client's own; empty if there are none.
        federation: Names the history of versions that it is of, as its server said; empty if the server said nothing.
    """

    model: str
    version: int
    digest: str
    private: str = ""
    federation: str = ""

    @property
    def key(self) -> str:
        """What it is kept under: a model of one federation has nothing to do with one of the same name elsewhere."""
        return reference_key(self.model, self.federation)

    def to_json(self) -> str:
        """Return the reference as one line of JSON."""
        found = {"model": self.model, "version": self.version, "digest": self.digest}
        added = {"private": self.private, "federation": self.federation}
        return json.dumps({**found, **{key: value for key, value in added.items() if value}})


def reference_key(model: str, federation: str) -> str:
    """Return what a client keeps a model of a federation under; the model's name alone where there is no federation."""
    return f"{model}\n{federation}" if federation else model


def parse_reference(text: str) -> Reference:
    """Read what `Reference.to_json` wrote.

    Raises:
        StoreError: If it is something else.
    """
    try:
        found = json.loads(text)
        reference = Reference(
            model=str(found["model"]),
            version=int(found["version"]),
            digest=str(found["digest"]),
            private=str(found.get("private", "")),
            federation=str(found.get("federation", "")),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise StoreError(f"a held version's reference is malformed: {text[:80]!r}") from error
    if not _DIGEST.fullmatch(reference.digest):
        raise StoreError(f"a held version's reference names {reference.digest[:80]!r}, expected a hex SHA-256")
    return reference
