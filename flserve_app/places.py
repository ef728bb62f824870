"""Where runs go, and what a run's folder holds.

`FLSERVE_OUTPUTS` names the folder whose `outputs/` every command means. Without it that is the current folder's; and,
for what `flwr run` starts in some other place, the project's own, or the user's home.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flserve_app.errors import ConfigError
from flserve_app.text import plain

OUTPUTS_VARIABLE = "FLSERVE_OUTPUTS"
STORE_VARIABLE = "FLSERVE_STORE"
OUTPUTS = "outputs"
CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
SUMMARY_FILE = "summary.json"


def outputs() -> Path:
    """Return the folder that runs go below, as `conf/` names it. Raises ConfigError if a home it needs is not known."""
    named = os.environ.get(OUTPUTS_VARIABLE)
    return _expanded(named) / OUTPUTS if named else Path(OUTPUTS)


def named_store() -> str | None:
    """Return the store that the environment names for all commands, if it does."""
    return os.environ.get(STORE_VARIABLE) or None


def project_outputs() -> Path:
    """Return where relative run folders of `flwr run` go.

    The ServerApp runs from an unpacked copy, in whatever directory the SuperLink was started in. So the folder
    is `FLSERVE_OUTPUTS` if it is set, the project's own if the package is installed from one in place, and the
    user's home otherwise.

    Raises:
        ConfigError: If it is the user's home, and none is known.
    """
    if configured := os.environ.get(OUTPUTS_VARIABLE):
        return _expanded(configured).absolute()
    try:
        return (_editable_project() or _expanded("~/flserve")).absolute()
    except ConfigError as error:
        raise ConfigError(
            f"no home folder is known (HOME is not set): name one for outputs in {OUTPUTS_VARIABLE}"
        ) from error


def published_as(resolved: Mapping[str, Any]) -> str:
    """Return the name that a run of this resolved configuration publishes under."""
    return str(resolved["model_name"] or f"{resolved['task']['name']}-{resolved['model']['name']}")


def published_as_told(text: str) -> str | None:
    """Return the name that the run of a config.yaml published under; None if the text does not tell."""
    try:
        return published_as(yaml.safe_load(text))
    except (yaml.YAMLError, KeyError, TypeError, RecursionError):
        return None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"path {plain(path)!r} begins with a home folder that is not known") from error


def _editable_project() -> Path | None:
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlparse

    try:
        text = distribution("flserve").read_text("direct_url.json")
        found = json.loads(text) if text else {}
    except (PackageNotFoundError, ValueError):
        return None
    url = urlparse(str(found.get("url", "")))
    path = Path(unquote(url.path))
    editable = bool(found.get("dir_info", {}).get("editable"))
    return path if editable and url.scheme == "file" and path.is_dir() else None
