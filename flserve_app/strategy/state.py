"""What a strategy remembers from round to round, as bytes: so that a resumed run goes on as if never stopped.

Flower's own strategies are known by their exact class: `REMEMBERED` names the attributes in which each keeps
something beyond its settings and what `configure_train` gives it anew. A strategy of somebody else has two
methods, or cannot be resumed:

    def flserve_state(self) -> dict[str, ndarray | float | int | str]: ...
    def load_flserve_state(self, state) -> None: ...

The bytes are 4 bytes of length, a JSON object, and a payload of the arrays (codec `lossless`): nothing is
pickled. The JSON names the classes, outermost first; a state is only given back to the same ones.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import Strategy

from flserve_app.artifact import Artifact
from flserve_app.client.records import read_array
from flserve_app.codec import decode, encode
from flserve_app.errors import ConfigError, FlserveError, StoreError
from flserve_app.strategy.compatibility import nested

KIND = "strategy-1"
EXTENSION = "it would need flserve_state() and load_flserve_state(state)"
_LENGTH = struct.Struct("<I")

Tensors = dict[str, np.ndarray[Any, np.dtype[Any]]]
Noted = dict[str, Any]

_MOMENTS = ("m_t", "v_t")
REMEMBERED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(
            ("FedAvg", "FedProx", "FedMedian", "FedTrimmedAvg", "QFedAvg", "Krum", "MultiKrum", "Bulyan"), ()
        ),
        **dict.fromkeys(("FedAdam", "FedAdagrad", "FedYogi"), _MOMENTS),
        "FedAvgM": ("current_arrays", "momentum_vector"),
        "DifferentialPrivacyServerSideFixedClipping": ("accountant",),
        "DifferentialPrivacyClientSideFixedClipping": ("accountant",),
        "DifferentialPrivacyServerSideAdaptiveClipping": ("clipping_norm",),
        "DifferentialPrivacyClientSideAdaptiveClipping": ("clipping_norm",),
    }
)


def save(strategy: Strategy) -> tuple[str, bytes] | None:
    """Return kind and bytes of a strategy's state; None if what it remembers is not known.

    Raises:
        ConfigError: If `flserve_state` returns something else than arrays, numbers and text by name.
    """
    chain = list(nested(strategy))
    if not all(_is_known(each) or _is_extended(each) for each in chain):
        return None
    tensors: Tensors = {}
    levels = [_level(each, f"{depth}/", tensors) for depth, each in enumerate(chain)]
    head = json.dumps({"classes": _names(chain), "levels": levels}, separators=(",", ":")).encode()
    return KIND, _LENGTH.pack(len(head)) + head + encode(Artifact(tensors), None, "lossless")


def restore_state(strategy: Strategy, found: tuple[str, bytes] | None, version: str) -> None:
    """Give a strategy the state that was saved with a version.

    Raises:
        ConfigError: If what the strategy remembers is not known, or was not saved, or belongs to another one.
        StoreError: If the state is malformed.
    """
    chain = list(nested(strategy))
    unknown = [type(each).__name__ for each in chain if not (_is_known(each) or _is_extended(each))]
    if unknown:
        raise ConfigError(f"{unknown[0]} cannot be resumed: what it remembers is not known; {EXTENSION}")
    if found is None:
        if any(_is_extended(each) or REMEMBERED[type(each).__name__] for each in chain):
            raise ConfigError(f"{_names(chain)[0]} cannot be resumed from {version}: no state was saved with it")
        return
    head, tensors = _read(found, version)
    if head["classes"] != _names(chain):
        raise ConfigError(
            f"{version} was made with {' of '.join(map(str, head['classes']))} and cannot be continued with "
            f"{' of '.join(_names(chain))}: their states differ"
        )
    for depth, (each, level) in enumerate(zip(chain, head["levels"], strict=True)):
        prefix = f"{depth}/"
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        try:
            _check_level(each, level)
            _give_back(each, level, mine)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"the strategy's state of {version} is malformed: {error!r}") from error


def _read(found: tuple[str, bytes], version: str) -> tuple[Noted, Artifact]:
    kind, data = found
    if kind != KIND:
        raise ConfigError(f"the state of {version} is of kind {kind!r}, expected {KIND!r}")
    try:
        (size,) = _LENGTH.unpack_from(data)
        head = json.loads(data[_LENGTH.size : _LENGTH.size + size])
        lists = isinstance(head["levels"], list) and isinstance(head["classes"], list)
        if not lists or len(head["levels"]) != len(head["classes"]):
            raise ValueError("as many levels as classes are expected")
        return head, decode(data[_LENGTH.size + size :], None)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, FlserveError) as error:
        raise StoreError(f"the strategy's state of {version} is malformed: {error}") from error


def _level(strategy: Strategy, prefix: str, tensors: Tensors) -> Noted:
    """Put one strategy's arrays among `tensors`; returns what JSON holds of it."""
    if _is_extended(strategy):
        state = cast(Any, strategy).flserve_state()
    else:
        state = {name: getattr(strategy, name) for name in REMEMBERED[type(strategy).__name__]}
    return {name: _noted(value, f"{prefix}{name}", tensors) for name, value in state.items()}


def _noted(value: object, name: str, tensors: Tensors) -> Any:
    """Return a value as JSON; arrays go among `tensors`, and their form is noted."""
    match value:
        case None | bool() | int() | float() | str():
            return {"value": value}
        case np.generic() | np.ndarray():
            tensors[name] = np.asarray(value)
            return {"form": "array"}
        case ArrayRecord():
            tensors.update({f"{name}/{key}": read_array(key, array) for key, array in value.items()})
            return {"form": "record", "keys": list(value)}
        case dict():
            tensors.update({f"{name}/{key}": np.asarray(array) for key, array in value.items()})
            return {"form": "dict", "keys": list(value)}
        case list():
            tensors.update({f"{name}/{at}": np.asarray(array) for at, array in enumerate(value)})
            return {"form": "list", "keys": [str(at) for at in range(len(value))]}
        case _ if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            return {"form": "own", "value": value.state_dict()}
    raise ConfigError(f"the state {name!r} is a {type(value).__name__}, expected an array, a number or text")


def _check_level(strategy: Strategy, level: Any) -> None:
    """Check that a level is notes about what the strategy remembers, and nothing else of it. Raises ValueError."""
    if not isinstance(level, dict) or not all(isinstance(note, dict) for note in level.values()):
        raise ValueError("a level is no notes")
    if not _is_extended(strategy) and (strange := set(level) - set(REMEMBERED[type(strategy).__name__])):
        raise ValueError(f"{type(strategy).__name__} does not remember {sorted(strange)[0]!r}")


def _give_back(strategy: Strategy, level: Noted, tensors: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> None:
    if _is_extended(strategy):
        cast(Any, strategy).load_flserve_state({name: _value(name, note, tensors) for name, note in level.items()})
        return
    for name, note in level.items():
        if note.get("form") != "own":
            setattr(strategy, name, _value(name, note, tensors))
        elif getattr(strategy, name) is not None:
            getattr(strategy, name).load_state_dict(note["value"])
        else:
            raise ConfigError(f"{type(strategy).__name__} was saved with its {name}, and is resumed without one")


def _value(name: str, note: Noted, tensors: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Any:
    form = note.get("form")
    if form is None:
        return note["value"]
    if form == "array":
        return tensors[name].copy()
    arrays = {key: tensors[f"{name}/{key}"].copy() for key in note["keys"]}
    if form == "record":
        return ArrayRecord({key: Array(value) for key, value in arrays.items()})
    return arrays if form == "dict" else list(arrays.values())


def _names(chain: list[Strategy]) -> list[str]:
    return [type(each).__name__ for each in chain]


def _is_known(strategy: Strategy) -> bool:
    return type(strategy).__module__.split(".")[0] == "flwr" and type(strategy).__name__ in REMEMBERED


def _is_extended(strategy: Strategy) -> bool:
    return hasattr(strategy, "flserve_state") and hasattr(strategy, "load_flserve_state")
