"""What the server tells a client about the job: a few values as JSON, checked on arrival.

Each has the type and the range that the configuration gives it; what a node's owner allows of it is another matter
(`client_limits`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, cast

from flserve_app.compose.model import Model
from flserve_app.config.schema import OPTIMIZERS
from flserve_app.errors import ConfigError
from flserve_app.task import HubSource, TaskSpec
from flserve_app.text import plain

KEY = "flserve-job"
MOST_EXAMPLES = 1 << 20  # a step
MOST_CHARACTERS = 1 << 16
MOST = 1e308

_T = TypeVar("_T")
_KINDS: Mapping[str, tuple[Any, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "dict[str, Any]": (dict,)}


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
        optimizer: `sgd` or `adam`.

    Raises:
        ConfigError: If a value is out of its range.
    """

    spec: TaskSpec
    model: Model
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    proximal: float = 0.0
    optimizer: str = "sgd"

    def __post_init__(self) -> None:
        """Refuse values out of their range."""
        _check("epochs", self.epochs, 1 <= self.epochs < 1 << 31, "1 to below 2**31")
        _check("batch_size", self.batch_size, 1 <= self.batch_size <= MOST_EXAMPLES, f"1 to {MOST_EXAMPLES}")
        _check("lr", self.lr, 0 < self.lr < math.inf, "a finite number above 0")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "0 to below 1")
        _check("proximal", self.proximal, 0 <= self.proximal < math.inf, "a finite number of 0 or more")
        _check("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"one of: {', '.join(OPTIMIZERS)}")

    def to_json(self) -> str:
        """Return the settings as JSON."""
        told: dict[str, Any] = {
            "task": asdict(self.spec),
            "model": asdict(self.model),
            "train": [self.epochs, self.batch_size, self.lr, self.momentum, self.proximal],
        }
        if self.optimizer != OPTIMIZERS[0]:  # a client of an older release is told what it always was
            told["optimizer"] = self.optimizer
        return json.dumps(told, separators=(",", ":"))


def read_settings(config: Mapping[str, object]) -> ClientSettings:
    """Read what `ClientSettings.to_json` wrote.

    Raises:
        ConfigError: If it is missing or malformed.
        TaskError: If a value is out of its range.
    """
    text = config.get(KEY)
    if not isinstance(text, str):
        raise ConfigError(f"the server sent no {KEY!r}: this client app belongs to flserve's own server app")
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"the server's {KEY!r} has {len(text)} characters, at most {MOST_CHARACTERS} are read")
    try:
        found: dict[str, Any] = json.loads(text)
        epochs, batch_size, lr, momentum, proximal = found["train"]
        return ClientSettings(
            spec=_spec(found["task"]),
            model=_typed(Model, found["model"]),
            epochs=_value("epochs", epochs, "int"),
            batch_size=_value("batch_size", batch_size, "int"),
            lr=_value("lr", lr, "float"),
            momentum=_value("momentum", momentum, "float"),
            proximal=_value("proximal", proximal, "float"),
            optimizer=_value("optimizer", found.get("optimizer", OPTIMIZERS[0]), "str"),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ConfigError(f"the server's {KEY!r} is malformed: {plain(error)}") from error


def _spec(found: dict[str, Any]) -> TaskSpec:
    hub = found["hub"]
    return _typed(TaskSpec, {**found, "hub": None if hub is None else _typed(HubSource, hub)})


def _typed(kind: type[_T], found: dict[str, Any]) -> _T:
    """Return a value of a dataclass whose plain fields have the types that it states."""
    if not isinstance(found, dict):
        raise TypeError(f"{kind.__name__} is {found!r}, expected an object")
    types = {field.name: str(field.type) for field in fields(cast(Any, kind))}
    return kind(**{name: _value(name, value, types.get(name, "")) for name, value in found.items()})


def _value(name: str, value: Any, stated: str) -> Any:
    kinds = _KINDS.get(stated, (object,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and stated in ("int", "float")):
        raise TypeError(f"{name} is {value!r}, expected {stated}")
    if stated == "float" and abs(value) > MOST:
        raise TypeError(f"{name} is out of all bounds")
    return float(value) if stated == "float" else value


def _check(name: str, value: float | str, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"the job's {name} is {plain(value)}, expected {expected}")
