"""A SuperLink of one's own, for the time of a block.

`flwr run` starts a SuperLink that all of a user's runs share, at a fixed port, and leaves it running. A
measurement must neither find one that is warm or busy nor leave one behind: this one has a Flower home, a
database and a port of its own, and ends with the block.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from flserve_app.errors import DeliveryError

NAME = "own"
_START_SECONDS = 60.0
_END_SECONDS = 15.0
_POLL_SECONDS = 0.02


def flower_command(name: str) -> str:
    """Return the path of one of Flower's commands in this environment."""
    return str(Path(sys.executable).parent / name)


@contextmanager
def own_superlink(folder: Path) -> Iterator[Mapping[str, str]]:
    """Run a SuperLink for simulations.

    Args:
        folder: Where its home, database and log are; must exist.

    Yields:
        The environment in which `flwr run PROJECT own` uses it.

    Raises:
        DeliveryError: If it does not start.
    """
    home, port = folder / "flwr-home", _free_port()
    home.mkdir()
    address = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\n{address}')
    environment = {**os.environ, "FLWR_HOME": str(home)}
    command = [flower_command("flower-superlink"), "--insecure", "--simulation", "--host=127.0.0.1", f"--port={port}"]
    with (folder / "superlink.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--database={folder / 'state.db'}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(port, process, folder / "superlink.log")
        yield environment
    finally:
        _end(process)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise DeliveryError(f"the SuperLink did not start at 127.0.0.1:{port}: {last[:300]}")
        time.sleep(_POLL_SECONDS)


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
