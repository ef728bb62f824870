"""From Hydra's files and overrides to a checked configuration.

Rules:
- A config is composed once, on the server; clients get the resolved result.
- `conf/` is the project's own folder, or the copy inside an installed wheel.
- Whatever Hydra or OmegaConf object to becomes one `ConfigError` in one sentence.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flserve_app.config.folders import by_time
from flserve_app.config.keys import meant
from flserve_app.config.schema import (
    MOST_PATH_CHARACTERS,
    AppConfig,
    CodecConfig,
    ModelConfig,
    StrategyConfig,
    TaskConfig,
)
from flserve_app.errors import ConfigError
from flserve_app.places import named_store, outputs
from flserve_app.text import is_plain, plain

CONFIG_NAME = "config"
MOST_NAME_BYTES = 200  # file systems take 255 of them; the job's number comes before
_LOCK = threading.Lock()
_NOISE = ("full_key:", "object_type=", "reference_type=", "Config search path", "set_env", "provider=", "See https:")
_QUOTED_KEY = re.compile(r"""[{,]\s*["'][^"']*["']\s*:""")
# What Hydra says most, in our words: a pattern, and what to say instead.
_SAID = (
    (
        re.compile(r"Key '([^']+)' (?:is )?not in (?:'\w+'|struct)"),
        "{no_key}",
    ),
    (
        re.compile(r"Could not find '(\w+)/([^']*)' Available options in '\w+': (.*)"),
        "{0} {1!r} is unknown; known: {2}",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A composed experiment.

    Attributes:
        app: The checked configuration.
        resolved: The same as plain values, as it is written to the run folder.
        run_dir: `hydra.run.dir`, resolved; relative to wherever outputs go.
        named_by_time: Whether it has the time in it: then it is to be a new folder.
    """

    app: AppConfig
    resolved: dict[str, Any]
    run_dir: str
    named_by_time: bool = False


def conf_dir() -> Path:
    """Return the folder with the configuration files.

    Raises:
        ConfigError: If neither the wheel nor the project has one.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / f"{CONFIG_NAME}.yaml").is_file():
            return folder
    raise ConfigError(f"no conf/{CONFIG_NAME}.yaml beside or inside {package}")


def folder_name(text: str) -> str:
    """Return a text as the name of a folder, cut off where a file system would refuse it."""
    return text.encode()[:MOST_NAME_BYTES].decode(errors="ignore")


def register_schemas() -> None:
    """Make the schemas, and what conf/ calls by name, known to Hydra; calling it again changes nothing."""
    OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
    OmegaConf.register_new_resolver("outputs", lambda: str(outputs()), replace=True)
    OmegaConf.register_new_resolver("named_store", named_store, replace=True)
    store = ConfigStore.instance()
    store.store(group="schema", name="app", node=AppConfig)
    store.store(group="schema", name="task", node=TaskConfig)
    store.store(group="schema", name="model", node=ModelConfig)
    store.store(group="schema", name="codec", node=CodecConfig)
    store.store(group="schema", name="strategy", node=StrategyConfig)


def load(overrides: Sequence[str] = ()) -> Composed:
    """Compose the configuration with overrides, as on Hydra's command line.

    Raises:
        ConfigError: If it does not compose, or a value is out of its range.
    """
    register_schemas()
    with _LOCK:
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
                composed = compose(CONFIG_NAME, overrides=list(overrides), return_hydra_config=True)
                HydraConfig.instance().set_config(composed)
                run_dir, named_by_time = str(composed.hydra.run.dir), by_time(composed.hydra.run)
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group set to null
            raise ConfigError(one_sentence(error)) from error
        OmegaConf.set_struct(composed, False)
        composed.pop("hydra")
        return checked(composed, run_dir, named_by_time=named_by_time)


def checked(config: DictConfig, run_dir: str, *, named_by_time: bool = False) -> Composed:
    """Return a composed config as a checked value.

    Raises:
        ConfigError: If a value is missing or out of its range.
    """
    try:
        resolved = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
        app = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(one_sentence(error)) from error
    if not isinstance(app, AppConfig):
        raise ConfigError(f"the config is a {type(app).__name__}, expected the schema of flserve")
    if extra := _extra_keys(app, ""):
        raise ConfigError(_no_key(extra[0]))
    if not is_plain(run_dir, MOST_PATH_CHARACTERS):
        raise ConfigError(f"hydra.run.dir is {plain(run_dir)!r}, expected a path of printable characters")
    return Composed(app=app, resolved=resolved, run_dir=run_dir, named_by_time=named_by_time)


def _extra_keys(part: Any, path: str) -> list[str]:
    """Return the keys that Hydra was made to add (`+key=value`) and the schema does not have."""
    names = {field.name for field in fields(part)}
    extra = [f"{path}{key}" for key in vars(part) if key not in names]
    for name in names:
        if is_dataclass(inner := getattr(part, name)):
            extra += _extra_keys(inner, f"{path}{name}.")
    return extra


def _no_key(key: str) -> str:
    like = meant(key)
    hint = f"did you mean {like!r}? " if like else ""
    return f"the configuration has no key {plain(key)!r}; {hint}`flserve run --cfg job` shows all"


def _hint(override: str) -> str:
    """Return what may be wrong with an override that cannot be read."""
    if _QUOTED_KEY.search(override):
        return " (keys in braces take no quotes)"
    if "=" not in override:
        return " (settings are written KEY=VALUE, without spaces)"
    if override.endswith((":", ",")):  # the shell cut it at a space
        return " (one with spaces is quoted as a whole: 'roles=[{head.*: private}]')"
    return ""


def one_sentence(error: BaseException) -> str:
    """Return what Hydra or OmegaConf say in many lines as one: the cause, and the choices where they name them."""
    # OmegaConf's own cause, which is there under a debugger, is the template of its message.
    foreign = isinstance(error, HydraException) and isinstance(error.__cause__, HydraException | OmegaConfBaseException)
    cause = error.__cause__ if foreign and error.__cause__ is not None else error
    lines = [line.strip() for line in str(cause if str(cause).strip() else error).splitlines()]
    key = next((line.removeprefix("full_key:").strip() for line in lines if line.startswith("full_key:")), "")
    text = " ".join(line for line in lines if line and not line.startswith(_NOISE))
    for pattern, said in _SAID:
        if found := pattern.search(text):
            return said.format(*found.groups(), no_key=_no_key(key or found[1]))[:500]
    if isinstance(cause, OverrideParseException):
        return f"override {cause.override[:200]} cannot be read: {text}"[:400] + _hint(cause.override)
    named = f"{key}: {text}" if key and f"'{key}'" not in text else text
    return named[:500] or type(error).__name__
