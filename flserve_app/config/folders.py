"""Where runs are put: a folder that is named by the time is a new one, whoever else begins in the same second.

Hydra names a run's folder by the second and takes one that is there already, so the jobs of an array would share it.
Rules:
- A folder whose name has the time in it is made by nobody else, or the next free name is taken: `19-37-58-2`.
- Any other name is the user's, who may mean a folder that is there: what is in it is looked at before a run begins.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, final

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from flserve_app.config.words import quoted
from flserve_app.errors import StoreError

MOST_FOLDERS = 10_000
_TIME = "${now:"


def by_time(part: DictConfig) -> bool:
    """Whether `hydra.run` or `hydra.sweep` names its folder by the time."""
    named: Any = OmegaConf.to_container(part, resolve=False)
    return _TIME in str(named["dir"])


def new_folder(path: Path) -> Path:
    """Make a folder that was not there: the path itself, or the next free name after it.

    Raises:
        StoreError: If it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path, *(path.with_name(f"{path.name}-{number}") for number in range(2, MOST_FOLDERS))):
            with suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise StoreError(f"run folder {path} cannot be made: {error.strerror}") from error
    raise StoreError(f"run folder {path} cannot be made: {MOST_FOLDERS} of its name are there")


@final
class OwnFolders(Callback):
    """Gives a run, or a sweep, a folder of its own where the configuration names it by the time."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Settle the folder of a run."""
        _settle(config, "run")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Settle the folder of a sweep; its jobs are composed anew from the overrides."""
        folder = _settle(config, "sweep")
        if folder is not None:
            with read_write(config.hydra), open_dict(config.hydra):
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")


def _settle(config: DictConfig, mode: str) -> Path | None:
    part = config.hydra[mode]
    if not by_time(part):
        return None
    HydraConfig.instance().set_config(config)
    # What cannot be made now is Hydra's to report: it is about to make the same folder, and a callback may not fail.
    with suppress(StoreError):
        folder = new_folder(Path(str(part.dir)))
        with read_write(config.hydra), open_dict(config.hydra):
            part.dir = str(folder)
        return folder
    return None
