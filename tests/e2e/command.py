"""The `flserve` command as a process of its own, in a folder of its own."""

import subprocess
from pathlib import Path

from tests.e2e.flower import BIN, environment


def flserve(folder: Path, *arguments: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "flserve"), *arguments],
        cwd=folder,
        env=environment(FLWR_HOME=str(folder / "flwr-home"), **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
