"""A SuperLink of one's own, for the time of a block; with SuperNodes, or for simulations.

`flwr run` starts a SuperLink that all of a user's runs share, at a fixed port, and leaves it running. A
measurement must neither find one that is warm or busy nor leave one behind: this one has a Flower home, a
database and a port of its own, and ends with the block, its nodes first. A deployment is set up as Flower's
commands do it by themselves (state in memory, a process a message), but says nothing to anybody outside.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from flserve_app.errors import DeliveryError
from flserve_app.experiments.network import Network, loopback

NAME = "own"
_ISOLATION = "--isolation=subprocess"  # the default, in which SuperLink and SuperNode start the apps' processes
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
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
    options = ["--simulation", f"--database={folder / 'state.db'}"]
    with _superlink(folder, options, {}, loopback(0)) as (environment, _):
        yield environment


@contextmanager
def own_deployment(folder: Path, network: Network) -> Iterator[Mapping[str, str]]:
    """Run a SuperLink and SuperNodes, each node with a cache directory of its own.

    Args:
        folder: Where home, caches and logs are; must exist.
        network: Where they run; the nodes have a `partition-id` and `num-partitions`.

    Yields:
        The environment in which `flwr run PROJECT own` uses it, from where the SuperLink runs.

    Raises:
        DeliveryError: If the SuperLink does not start.
    """
    options = [_ISOLATION, "--disable-runtime-dependency-installation"]
    with _superlink(folder, options, _QUIET, network) as (environment, port), ExitStack() as running:
        for number, inside in enumerate(network.nodes):
            cache = f'cache-dir="{folder / f"cache-{number}"}"'
            command = [
                *(*inside, flower_command("flower-supernode"), "--insecure", _ISOLATION),
                *(f"--superlink={network.address}:{port}", f"--port={_free_port()}"),
                f"--node-config=partition-id={number} num-partitions={len(network.nodes)} {cache}",
            ]
            running.enter_context(_process(command, folder, f"supernode-{number}", environment))
        yield environment


@contextmanager
def _superlink(
    folder: Path, options: Sequence[str], extra: Mapping[str, str], network: Network
) -> Iterator[tuple[Mapping[str, str], int]]:
    home, port = folder / "flwr-home", _free_port()
    home.mkdir()
    address = f'address = "{network.address}:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\n{address}')
    # Flower finds its own commands by their names.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**os.environ, **extra, "PATH": path, "FLWR_HOME": str(home)}
    listening = [f"--host={network.address}", f"--port={port}"]
    command = [*network.superlink, flower_command("flower-superlink"), "--insecure", *listening, *options]
    with _process(command, folder, "superlink", environment) as process:
        _wait_for(network, port, process, folder / "superlink.log")
        yield environment, port


@contextmanager
def _process(
    command: Sequence[str], folder: Path, name: str, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command for the time of a block, in a session of its own; what it says is in `<name>.log`."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(network: Network, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not network.listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise DeliveryError(f"the SuperLink did not start at {network.address}:{port}: {last[:300]}")
        time.sleep(_POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started."""
    # The SuperLink starts apps in a session of their own, from where they would see its end seconds later.
    started = _descendants(process.pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)


def _descendants(pid: int) -> list[int]:
    """Return the ids of what a process started, and of what that started; none where there is no `ps`."""
    try:
        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    pairs = [(int(child), int(parent)) for child, parent in (line.split() for line in listing.splitlines())]
    found = [pid]
    for known in found:  # grows while it is gone through
        found.extend(child for child, parent in pairs if parent == known)
    return found[1:]
