"""The application: its commands, and the boundary where errors become one line.

Whatever flserve foresees is an `FlserveError`: it is printed on stderr as `error: ...` and the exit code is 1. So is
what the system says of a path. What is printed is plain text, whoever's words it repeats. A signal ends a command in
order, with one line and the exit code that a shell gives it (130, 143).
Wrong usage exits with 2, as click does. Heavy packages are imported by the commands that need them, so that
the light ones answer at once.
"""

from __future__ import annotations

import os
import warnings
from importlib import metadata
from typing import Annotated, Any, NoReturn, final

import typer
from click import exceptions
from typer.core import TyperGroup

from flserve_app.cli import exchange, experiment, history, labels, runs, show, upkeep
from flserve_app.cli.options import MOST_SHOWN
from flserve_app.errors import FlserveError
from flserve_app.experiments.stopping import STOPPED_CODES, Stopped, leave, stoppable
from flserve_app.text import plain


@final
class ErrorBoundary(TyperGroup):
    """A group of commands that turns our errors into a line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with stoppable():
                return super().invoke(ctx)
        except Stopped as stopped:
            said = plain(f"error: stopped by {stopped.signal.name}{stopped.then}", MOST_SHOWN)
            typer.secho(said, fg=typer.colors.RED, err=True)
            raise typer.Exit(stopped.exit_code) from None
        except FlserveError as error:
            _end(str(error))
        except BrokenPipeError:
            raise  # who reads the output went away: click ends in silence then
        except OSError as error:
            # A path that cannot be looked at or written, at any depth: the system's reason says it all.
            _end(_of_system(error))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"flserve {metadata.version('flserve')}")
        raise typer.Exit


def _end(reason: str) -> NoReturn:
    typer.secho(f"error: {plain(reason, MOST_SHOWN)}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1) from None


def _of_system(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    if error.filename is not None:
        return f"{plain(error.filename, MOST_SHOWN // 2)}: {reason}"
    try:
        os.getcwd()
    except OSError:
        return f"the current folder: {reason}: it was removed, change to one that is there"
    return reason


app = typer.Typer(
    name="flserve",
    cls=ErrorBoundary,
    suggest_commands=not hasattr(exceptions, "NoSuchCommand"),  # newer releases of click suggest by themselves
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _flserve(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Model distribution and serving for federated learning on Flower."""


app.command("run", context_settings=experiment.PASS_ON)(experiment.run)
app.command("log")(history.log)
app.command("show")(show.show)
app.command("diff")(history.diff)
app.command("label")(labels.label)
app.command("runs")(runs.runs)
app.command("export")(exchange.export)
app.command("import")(exchange.import_bundle)
app.command("verify")(upkeep.verify)
app.command("gc")(upkeep.gc)
app.add_typer(experiment.bench_app, name="bench")


def main() -> None:
    """Run the command line; it ends the process."""
    # typer wraps stdout in a way that newer releases of click announce the end of.
    warnings.filterwarnings("ignore", message=".*PacifyFlushWrapper", category=DeprecationWarning)
    try:
        app()
    except SystemExit as end:
        if end.code in STOPPED_CODES:
            leave(int(end.code))
        raise
