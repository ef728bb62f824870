"""A wrapper that shows what it wraps.

An app sets up its strategy and asks it things: `strategy.set_path(...)`, `strategy.best_accuracy`. Rules:
- What the wrapper does not have is read from the strategy inside.
- What is set on the wrapper would not be seen by the strategy inside: that is an error which says where it belongs. So
  is what would take the place of the wrapper's own parts and methods.
"""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from flserve_app.errors import ConfigError
from flserve_app.strategy.older_api import SERVER_HINT, SERVER_METHODS


class Transparent(Strategy, ABC):
    """A strategy around another one.

    Attributes:
        inner: The strategy inside.
    """

    inner: Strategy
    _built = False

    if not TYPE_CHECKING:  # a type checker is to know what a wrapper has, and what it has not

        def __getattr__(self, name: str) -> Any:
            """Return an attribute of the strategy inside."""
            if "inner" not in vars(self) or (name.startswith("__") and name.endswith("__")):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            try:
                return getattr(self.inner, name)
            except AttributeError as error:
                kinds = f"{type(self).__name__} nor its inner {type(self.inner).__name__}"
                hint = f": {SERVER_HINT}" if name in SERVER_METHODS else ""
                raise AttributeError(f"neither {kinds} has an attribute {name!r}{hint}") from error

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute of the wrapper's own, from inside of it. Raises ConfigError for any other."""
        if self._built and (not name.startswith("_") or name not in vars(self)):
            kind = type(self).__name__
            if name in vars(self):
                raise ConfigError(f"{kind}: {name!r} cannot be replaced: make another {kind}")
            raise ConfigError(
                f"{kind}: setting {name!r} would change nothing in the strategy inside: "
                f"set it there, strategy.inner.{name} = ..., before the start"
            )
        super().__setattr__(name, value)
