"""What a client of flserve's own tasks does for a server at most: the node's site policy, applied to a job.

A job is a few values from the server. Each could keep the client busy for years, fill its memory or name files of its
machine, so each is held to the policy before any data are read or made. Rules:
- A data set on the Hub is named OWNER/NAME. Everything else may be a place on this machine (`datasets` reads the
  working directory for a name such as `imagefolder`), and is read only where the policy names its folder.
- The job's model is the one that was delivered: it is no larger.
"""

from __future__ import annotations

import re
from pathlib import Path

from flserve_app.client.policy import SitePolicy
from flserve_app.compose.client_settings import ClientSettings
from flserve_app.errors import ConfigError
from flserve_app.task import HubSource, TaskSpec, task_data
from flserve_app.task.models import model_nbytes
from flserve_app.text import plain

_VALUE_BYTES = 8
_SLACK_BYTES = 1 << 20
_ON_THE_HUB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


def check_job(settings: ClientSettings, policy: SitePolicy) -> None:
    """Refuse a job that the node's owner does not allow.

    Raises:
        ConfigError: With what it asks for, and what is allowed.
    """
    _check_at_most("epochs", settings.epochs, policy.max_epochs, "max-epochs")
    _check_at_most("clients", settings.spec.num_clients, policy.max_clients, "max-clients")
    if settings.spec.name == "synthetic":
        _check_at_most("bytes of synthetic data", _made_bytes(settings.spec), policy.made_bytes, "max-made-bytes")
    if settings.spec.hub is not None:
        _check_source(settings.spec.hub, policy)


def check_model(settings: ClientSettings, delivered: int) -> None:
    """Refuse a model that is larger than the version that came with the job, before it is built.

    Raises:
        ConfigError: If it is.
        TaskError: If it is none that can be built.
    """
    task = task_data(settings.spec)
    nbytes = model_nbytes(
        settings.model.name,
        input_shape=task.input_shape,
        classes=len(task.classes),
        input_dtype=task.input_dtype,
        **settings.model.arguments,
    )
    if nbytes > delivered + _SLACK_BYTES:
        raise ConfigError(f"the job's model has {nbytes} bytes, the version that was delivered {delivered}")


def is_place(dataset: str) -> bool:
    """Whether a data set's name may stand for files of this machine, and not for a repository of the Hub."""
    if _ON_THE_HUB.fullmatch(dataset) is None:
        return True
    try:
        return Path(dataset).exists()
    except OSError:
        return True


def place_of(dataset: str) -> Path:
    """Return the folder whose files such a name would read.

    Raises:
        RuntimeError: If it is below a home directory that cannot be found.
    """
    path = Path(dataset).expanduser()
    return path if path.is_absolute() or path.exists() else Path.cwd()


def _check_source(source: HubSource, policy: SitePolicy) -> None:
    try:
        allowed = not is_place(source.dataset) or policy.allows(place_of(source.dataset))
    except (OSError, RuntimeError, ValueError):
        allowed = False
    if not allowed:
        raise ConfigError(
            f"the job names {plain(repr(source.dataset))}, a place on this machine: its owner has to allow the folder "
            "(node-config data-folders, or FLSERVE_DATA_FOLDERS); a data set on the Hub is named OWNER/NAME"
        )


def _made_bytes(spec: TaskSpec) -> int:
    return (spec.num_clients + 1) * spec.n * spec.dim * _VALUE_BYTES


def _check_at_most(what: str, found: int, most: int, key: str) -> None:
    if found > most:
        raise ConfigError(f"the job has {found} {what}, this node's {key} is {most}")
