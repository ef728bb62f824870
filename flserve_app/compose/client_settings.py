"""What the server tells a client about the job: a few values as JSON, checked on arrival."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flserve_app.compose.model import Model
from flserve_app.errors import ConfigError
from flserve_app.task import HubSource, TaskSpec

KEY = "flserve-job"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """A client's part of a configuration.

    Attributes:
        spec: The task, and how it is dealt out.
        model: The model.
        epochs: Passes over the client's data a round.
        batch_size: Examples a step.
        lr: Learning rate.
        momentum: SGD momentum.
        proximal: mu of FedProx's proximal term.
    """

    spec: TaskSpec
    model: Model
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    proximal: float = 0.0

    def to_json(self) -> str:
        """Return the settings as JSON."""
        plain = {
            "task": asdict(self.spec),
            "model": asdict(self.model),
            "train": [self.epochs, self.batch_size, self.lr, self.momentum, self.proximal],
        }
        return json.dumps(plain, separators=(",", ":"))


def read_settings(config: Mapping[str, object]) -> ClientSettings:
    """Read what `ClientSettings.to_json` wrote.

    Raises:
        ConfigError: If it is missing or malformed.
        TaskError: If a value is out of its range.
    """
    text = config.get(KEY)
    if not isinstance(text, str):
        raise ConfigError(f"the server sent no {KEY!r}: this client app belongs to flserve's own server app")
    try:
        plain: dict[str, Any] = json.loads(text)
        epochs, batch_size, lr, momentum, proximal = plain["train"]
        return ClientSettings(
            spec=_spec(plain["task"]),
            model=Model(**plain["model"]),
            epochs=int(epochs),
            batch_size=int(batch_size),
            lr=float(lr),
            momentum=float(momentum),
            proximal=float(proximal),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ConfigError(f"the server's {KEY!r} is malformed: {error}") from error


def _spec(plain: dict[str, Any]) -> TaskSpec:
    hub = plain["hub"]
    return TaskSpec(**{**plain, "hub": None if hub is None else HubSource(**hub)})
