"""The ServerApp of `flwr run`.

`--run-config` has one key a person needs: `overrides`, a line of Hydra overrides, as after `flserve run`. The
common ones may also be given as keys of their own (`codec="full"`). The folder the run writes to is absolute
and printed at the start and the end; so is, at the end, why a run failed, without the traceback that says no more.
"""

import logging
import shlex
import sys
from collections.abc import Mapping
from logging import ERROR, INFO
from pathlib import Path

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from flserve_app.compose.job import run_job
from flserve_app.compose.screen import Screen
from flserve_app.config import Composed, load, new_folder, quoted
from flserve_app.errors import ConfigError, FlserveError
from flserve_app.places import project_outputs
from flserve_app.text import plain

MOST_SHOWN = 1000
_GRAMMAR = ("roles",)  # keys whose values are lists, as Hydra writes them; all others are words

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Compose the configuration, run the job, print its summary."""
    folder = None
    try:
        composed = load(overrides_of(context.run_config))
        folder = project_outputs() / composed.run_dir
        if composed.named_by_time:
            folder = new_folder(folder)
        log(INFO, "flserve: run folder %s (code in %s, Python in %s)", folder, Path(__file__).parent, sys.prefix)
        _run(grid, composed, folder)
    except FlserveError as error:
        said = f"{error}" if folder is None else f"{error}; run folder {folder}"
        log(ERROR, "flserve: error: %s", said)
        logging.getLogger("flwr").addFilter(in_one_line)
        raise type(error)(said) from None


def _run(grid: Grid, composed: Composed, folder: Path) -> None:
    screen = Screen(composed.app.num_rounds, lambda line: log(INFO, "flserve: %s", line), Console(width=100))
    summary = None
    try:
        summary = run_job(grid, composed, folder, screen.show)
    finally:
        screen.close(summary)


def in_one_line(record: logging.LogRecord) -> bool:
    """Let Flower, which logs an app's exception with its traceback, log ours as the sentence that it is."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FlserveError):
        record.msg, record.args = "%s: %s", (record.getMessage(), plain(error, MOST_SHOWN))
        record.exc_info = record.exc_text = None
    return True


def overrides_of(run_config: Mapping[str, object]) -> list[str]:
    """Return Hydra overrides from a run config.

    Raises:
        ConfigError: If `overrides` is not a line of words.
    """
    try:
        words = shlex.split(str(run_config.get("overrides", "")))
    except ValueError as error:
        raise ConfigError(f"overrides cannot be split into words: {error}") from error
    named = [
        f"{key}={value if key in _GRAMMAR else _word(value)}"
        for key, value in run_config.items()
        if key != "overrides" and value != ""
    ]
    return [*named, *words]


def _word(value: object) -> str:
    if not isinstance(value, str):
        return str(value).lower()
    return value if value == "null" else quoted(value)
