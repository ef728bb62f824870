"""The site policy: bounds that a node's owner sets, and that no server and no app can pass.

It stands in the node's configuration (`flower-supernode --node-config 'max-model-bytes="2 GiB"'`), or in environment
variables (`FLSERVE_MAX_MODEL_BYTES`), which count where the configuration has no such key. A server reaches neither.
Rules:
- The configuration is the app's as well, so no key is an everyday word.
- A value that is not as stated, or a key that is nearly one of these, is an error that names the key. The node then
  works for nobody: a bound that was misspelt must not be no bound.
- What is not set has a default that a small machine survives.
- The mod holds messages to it before anything is made of them; flserve's own clients hold their job to it as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from flserve_app.client.memory import memory_bytes
from flserve_app.codec.decoder import DEFAULT_MAX_BYTES
from flserve_app.errors import ConfigError
from flserve_app.text import plain

ENVIRONMENT: Final = "FLSERVE_"
MOST_BYTES: Final = 1 << 60
_MADE_SHARE = 4  # building takes some times what is built
FRAMES = 16 << 20  # what arrays and payloads may be larger than their values: names, shapes, headers
_MOST = "max_"
_ALIKE = 0.8  # of difflib: a letter more or less, not another word
_SIZE = re.compile(r"([0-9]{1,19}) ?(B|[kKMGT]B|[KMGT]iB)?")
_UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    f"{letter}iB": 1 << 10 * power for power, letter in enumerate("KMGT", start=1)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """What a node does at most.

    Attributes:
        max_model_bytes: Bytes of a model's tensors, private ones included.
        max_round_bytes: Bytes of a message's content and of the reply's, together; 0 for twice `max_model_bytes`.
        max_made_bytes: Bytes of what a few numbers from the server make: a recipe's model, synthetic data; 0 for
            `max_model_bytes`, or a quarter of the memory that the process may have if that is less.
        max_epochs: Passes over the client's data a round (flserve's own clients).
        max_clients: Clients that a job may deal data out to (flserve's own clients).
        data_folders: Folders of this machine that a job may name to read data from, with all that is below them.
        build_recipes: Whether models are built from recipes.
        cache_bytes: Bytes of versions in the cache directory; the one in use is kept in any case. Of private tensors,
            as many again may be kept; more are refused.
        cache_days: Days after which a version that nobody asked for leaves the cache directory.
        private_days: Days after which private tensors that no server asked for are removed, with a warning.
    """

    max_model_bytes: int = DEFAULT_MAX_BYTES
    max_round_bytes: int = 0
    max_made_bytes: int = 0
    max_epochs: int = 10_000
    max_clients: int = 10_000
    data_folders: tuple[Path, ...] = ()
    build_recipes: bool = True
    cache_bytes: int = 32 << 30
    cache_days: int = 30
    private_days: int = 90

    @property
    def round_bytes(self) -> int:
        """Bytes of a message's content and of its reply's."""
        return self.max_round_bytes or 2 * (self.max_model_bytes + FRAMES)

    @property
    def made_bytes(self) -> int:
        """Bytes of what a few numbers from the server make."""
        return self.max_made_bytes or min(self.max_model_bytes, memory_bytes() // _MADE_SHARE)

    def allows(self, path: Path) -> bool:
        """Whether a job may read data from a file or folder of this machine; links are followed first."""
        try:
            found = path.expanduser().resolve()
            return any(found.is_relative_to(folder.expanduser().resolve()) for folder in self.data_folders)
        except (OSError, RuntimeError, ValueError):
            return False


def site_policy(node_config: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> SitePolicy:
    """Return what the owner of a node set.

    Args:
        node_config: The node's configuration.
        environ: The environment; that of this process if left out.

    Raises:
        ConfigError: If a value is not as stated, or a key is nearly one of these.
    """
    variables = os.environ if environ is None else environ
    found: dict[str, Any] = {}
    for field in fields(SitePolicy):
        key, variable = field.name.replace("_", "-"), f"{ENVIRONMENT}{field.name.upper()}"
        if key in node_config:
            found[field.name] = _read(field.name, node_config[key], f"node-config {key}")
        elif variables.get(variable, ""):
            found[field.name] = _read(field.name, variables[variable], variable)
    _check_keys([str(key) for key in node_config], variables)
    return SitePolicy(**found)


def _check_keys(keys: list[str], variables: Mapping[str, str]) -> None:
    """Refuse what was meant to be a bound and would be none."""
    known = {field.name for field in fields(SitePolicy)}
    for key in keys:
        meant = _meant(key, known).replace("_", "-")
        if meant and key != meant:
            raise ConfigError(f"node-config {plain(key)}: unknown key, expected {meant!r}")
    for variable in variables:
        name = variable.removeprefix(ENVIRONMENT).lower()
        if variable.startswith(f"{ENVIRONMENT}MAX_") and name not in known:
            raise ConfigError(f"{plain(variable)}: unknown bound; known: {', '.join(sorted(known))}")


def _meant(key: str, known: Iterable[str]) -> str:
    """Return the name of the bound that a key is, or nearly is; empty for one of the app's own, such as max-steps."""
    name = key.strip().lower().replace("-", "_").replace(" ", "_")
    if name in known or not name.startswith(_MOST):
        return name if name in known else ""
    # What all of them begin with would make everything alike.
    bounds = [each.removeprefix(_MOST) for each in known if each.startswith(_MOST)]
    near = get_close_matches(name.removeprefix(_MOST), bounds, 1, _ALIKE)
    return f"{_MOST}{near[0]}" if near else ""


def _read(name: str, value: object, where: str) -> object:
    return _READERS[name](value, where)


def _bytes(value: object, where: str) -> int:
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    size = value if _is_whole(value) else int(found[1]) * _UNITS[found[2] or "B"] if found else 0
    if not isinstance(size, int) or not 0 < size <= MOST_BYTES:
        raise ConfigError(f"{where} is {plain(repr(value))}, expected bytes of 1 or more, such as 2000000 or '2 GiB'")
    return size


def _count(value: object, where: str) -> int:
    text = value.strip() if isinstance(value, str) else ""
    count = value if _is_whole(value) else int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    if not isinstance(count, int) or not 0 < count < 1 << 31:
        raise ConfigError(f"{where} is {plain(repr(value))}, expected a whole number of 1 or more")
    return count


def _switch(value: object, where: str) -> bool:
    found = {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())
    if found is None or isinstance(value, float):
        raise ConfigError(f"{where} is {plain(repr(value))}, expected true or false")
    return found


def _folders(value: object, where: str) -> tuple[Path, ...]:
    names = [name.strip() for name in value.split(os.pathsep)] if isinstance(value, str) else [""]
    folders = tuple(Path(name) for name in names if name)
    whole = all(folder.is_absolute() or str(folder).startswith("~") for folder in folders)
    if not whole or "\0" in str(value) or (not folders and value != ""):
        expected = f"absolute paths with {os.pathsep!r} between, such as '/data/a'"
        raise ConfigError(f"{where} is {plain(repr(value))}, expected {expected}")
    return folders


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_READERS: Mapping[str, Callable[[object, str], object]] = {
    "max_model_bytes": _bytes,
    "max_round_bytes": _bytes,
    "max_made_bytes": _bytes,
    "max_epochs": _count,
    "max_clients": _count,
    "data_folders": _folders,
    "build_recipes": _switch,
    "cache_bytes": _bytes,
    "cache_days": _count,
    "private_days": _count,
}
