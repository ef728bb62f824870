"""`flserve run`: one experiment, or a sweep of them, as a Hydra app.

Hydra composes, makes the run folder and sweeps; the job is the same as under `flwr run`. Rules:
- Hydra's own error screens are replaced by one sentence: whatever it objects to is raised as `ConfigError`.
- A configuration is composed and checked before Flower and torch are imported: who mistyped learns it at once.
- A sweep goes on when a job of it fails; the job is named where it fails, in the table, and in the error at the end.
- The table is also `sweep.csv` in the sweep's folder, written anew after each job: a sweep that is killed leaves it.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from flserve_app.config import checked, conf_dir, one_sentence, register_schemas
from flserve_app.config.keys import known_keys
from flserve_app.errors import ConfigError, FlserveError, StoreError
from flserve_app.experiments.console import report_console
from flserve_app.text import plain

if TYPE_CHECKING:
    from flserve_app.compose.sweeps import Job

PLAIN_WIDTH = 120
SWEEP_FILE = "sweep.csv"
MOST_SHOWN = 1000


def run(overrides: Sequence[str]) -> None:
    """Run what the overrides describe; `-m` sweeps.

    Raises:
        ConfigError: If the configuration does not compose.
        FlserveError: Whatever keeps a run from being done; of a sweep, which jobs failed and why the first did.
    """
    if flag := next((each for each in overrides if each.startswith("--") and _key_of(each) in known_keys()), None):
        key = _key_of(flag)
        raise ConfigError(f"settings are written KEY=VALUE, as in {key}=...; found {plain(flag)!r}")
    register_schemas()
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # else its thread count is news in every run
    jobs = _Jobs(_count(overrides))
    try:
        with _called("flserve run", overrides):
            hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(jobs.run)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_sentence(error)) from error
    except (ValueError, OSError) as error:
        if jobs.started:
            raise
        if isinstance(error, OSError):
            raise StoreError(f"the run folder cannot be made: {_of_system(error)}") from error
        raise ConfigError(one_sentence(error)) from error  # Hydra's way to refuse some overrides
    jobs.close()


@final
class _Jobs:
    """Runs the jobs that Hydra hands over, and remembers how they ended.

    Args:
        count: How many there will be; 0 if that is not known.
    """

    def __init__(self, count: int) -> None:
        self.started = False
        self._count = count
        self._done: list[Job] = []
        self._errors: list[FlserveError] = []
        self._folder = Path()

    def run(self, config: DictConfig) -> float | None:
        """Run one job; returns its accuracy, which sweepers that search go by."""
        self.started = True
        settings = HydraConfig.get()
        sweeps = settings.mode == RunMode.MULTIRUN
        number = int(settings.job.num) if sweeps else 0
        told = " ".join(settings.overrides.task)
        if sweeps:
            of = f" ({self._count} in all)" if self._count else ""
            _say(f"job {number}{of}: {told}")
        summary, reason = None, ""
        try:
            summary = _job(config)
        except FlserveError as error:  # a sweep goes on with its other jobs
            self._errors.append(error)
        except OSError as error:
            self._errors.append(_of_system(error))
        if summary is None:
            reason = plain(self._errors[-1], MOST_SHOWN)
            if sweeps:
                _say(f"job {number} failed: {reason}", to=Console(stderr=True))
        if sweeps:
            self._note(number, list(settings.overrides.task), summary, reason, Path(str(settings.sweep.dir)))
        return None if summary is None else summary["final_accuracy"]

    def close(self) -> None:
        """Show how the jobs ended; raises for those that failed."""
        if self._done:
            from flserve_app.compose.sweeps import failures_sentence, sweep_table

            if len(self._done) > 1:
                report_console(PLAIN_WIDTH).print(sweep_table(self._done))
                _say(f"table and runs: {self._folder}")
                if self._errors:
                    raise type(self._errors[0])(failures_sentence(self._done)) from self._errors[0]
        if self._errors:
            raise self._errors[0]

    def _note(
        self, number: int, overrides: list[str], summary: dict[str, Any] | None, reason: str, folder: Path
    ) -> None:
        from flserve_app.compose.sweeps import Job, sweep_csv
        from flserve_app.store.files import write_file

        self._folder = folder.absolute()
        self._done.append(Job(number=number, overrides=overrides, summary=summary, error=reason))
        try:
            write_file(folder / SWEEP_FILE, sweep_csv(self._done).encode())
        except StoreError as error:
            self._errors.append(error)


def _say(line: str, to: Console | None = None) -> None:
    """Print a line as it is: what it says is somebody's override or reason, and no markup."""
    (to or report_console(PLAIN_WIDTH)).print(plain(line, MOST_SHOWN), soft_wrap=True, highlight=False, markup=False)


def _job(config: DictConfig) -> dict[str, Any]:
    output = HydraConfig.get().runtime.output_dir
    composed = checked(config, output)
    from flserve_app.experiments.run import run_simulated

    return run_simulated(composed, Path(output), _started_by(config), brief=HydraConfig.get().mode == RunMode.MULTIRUN)


def _of_system(error: OSError) -> StoreError:
    place = f"{plain(error.filename)}: " if error.filename is not None else ""
    return StoreError(f"{place}{error.strerror}" if error.strerror else one_sentence(error))


def _key_of(flag: str) -> str:
    """Return the key that somebody meant who wrote it as an option."""
    return flag[2:].partition("=")[0].replace("-", "_")


def _count(overrides: Sequence[str]) -> int:
    """Return how many jobs a sweep of these overrides has; 0 if they cannot be counted here."""
    try:
        parsed = OverridesParser.create().parse_overrides([each for each in overrides if not each.startswith("-")])
        swept = [each for each in parsed if each.is_sweep_override()]
        return math.prod(sum(1 for _ in each.sweep_string_iterator()) for each in swept)
    except (HydraException, NotImplementedError, AttributeError, TypeError, ValueError):
        return 0


def _started_by(config: DictConfig) -> dict[str, str]:
    """Return the files that Hydra keeps beside a job, unless it was told to write them itself."""
    settings = HydraConfig.get()
    if settings.output_subdir is not None:
        return {}
    only_hydra = OmegaConf.create({"hydra": settings})
    kept = {"config": config, "hydra": only_hydra, "overrides": settings.overrides.task}
    return {f".hydra/{name}.yaml": OmegaConf.to_yaml(part) for name, part in kept.items()}


@contextmanager
def _called(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra, which reads the process's own arguments, see these, and raise its errors as they are."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [name, *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        os.environ.pop("HYDRA_FULL_ERROR") if full is None else os.environ.update(HYDRA_FULL_ERROR=full)
