"""The folder of one run: everything it leaves behind.

`config.yaml` (resolved), `history.jsonl` (a row a round, appended and flushed as rounds end, so that a killed
run keeps what it did), `summary.json` (written at the end, atomically) and `store/`, unless a shared store is
named. Both are strict JSON whatever was measured: what JSON has no number for is null.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from omegaconf import OmegaConf

from flserve_app.errors import StoreError
from flserve_app.store import write_file
from flserve_app.strategy import RoundRow
from flserve_app.text import strict_json

CONFIG_FILE = "config.yaml"
HISTORY_FILE = "history.jsonl"
SUMMARY_FILE = "summary.json"


@final
class RunFolder:
    """Writes a run's files.

    Args:
        path: The folder; made if it is not there.

    Raises:
        StoreError: If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"run folder {self.path} cannot be made: {error}") from error

    def write_config(self, resolved: Mapping[str, Any]) -> None:
        """Write the resolved configuration. Raises StoreError."""
        self._write(CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(dict(resolved))))

    def append(self, row: RoundRow) -> None:
        """Append a round's row to the history.

        Raises:
            StoreError: If it cannot be written.
        """
        try:
            with (self.path / HISTORY_FILE).open("a", encoding="utf-8") as file:
                file.write(strict_json(asdict(row)) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path / HISTORY_FILE} cannot be written: {error}") from error

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary. Raises StoreError."""
        self._write(SUMMARY_FILE, strict_json(dict(summary), indent=2) + "\n")

    def _write(self, name: str, text: str) -> None:
        write_file(self.path / name, text.encode())


def project_outputs() -> Path:
    """Return where relative run folders of `flwr run` go.

    The ServerApp runs from an unpacked copy, in whatever directory the SuperLink was started in. So the folder
    is `FLSERVE_OUTPUTS` if it is set, the project's own if the package is installed from one in place, and the
    user's home otherwise.
    """
    if configured := os.environ.get("FLSERVE_OUTPUTS"):
        return Path(configured).expanduser().absolute()
    return (_editable_project() or Path.home() / "flserve").absolute()


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
