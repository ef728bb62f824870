"""Finished runs of a bench on disk, so that an interrupted bench goes on where it stopped.

One JSON object a line: a run's key, what it was, its curve. The key is a hash of the whole resolved configuration:
whatever changes it makes another run. A line that was cut off by a crash is dropped; any other that cannot be read
is an error, because it would be measured again in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

from flserve_app.disk.durable import force
from flserve_app.errors import StoreError
from flserve_app.experiments.byte_curve import Curve
from flserve_app.store import write_file
from flserve_app.store.files import make_folder

RUNS_FILE = "runs.jsonl"


def key_of(resolved: Mapping[str, Any], kind: str) -> str:
    """Return the key of a run: a hex SHA-256 over its resolved configuration and what it is run by."""
    return hashlib.sha256(json.dumps([kind, dict(resolved)], sort_keys=True).encode()).hexdigest()


@final
class KeptRuns:
    """Reads and appends finished runs.

    Args:
        folder: Where the file is, or is made.

    Raises:
        StoreError: If it cannot be read or made, or a line is no run.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder.absolute())
        self.path = folder.absolute() / RUNS_FILE
        self._curves: dict[str, Curve] = {}
        for number, line in enumerate(self._lines(), 1):
            try:
                entry = json.loads(line)
                curve = {name: tuple(entry[name]) for name in ("accuracy", "payload", "message")}
                self._curves[entry["key"]] = Curve(**curve)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise StoreError(f"{self.path}, line {number}: expected a run, found {line[:60]!r}") from error

    def find(self, key: str) -> Curve | None:
        """Return a finished run's curve; None if there is none."""
        return self._curves.get(key)

    def add(self, key: str, curve: Curve, **facts: Any) -> None:
        """Append a run and wait until it is on disk.

        Raises:
            StoreError: If it cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **facts, **asdict(curve)}) + "\n")
                file.flush()
                force(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written: {error}") from error
        self._curves[key] = curve

    def _lines(self) -> list[str]:
        """Return the complete lines; cut off what comes after the last."""
        try:
            text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.path} cannot be read: {error}") from error
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_file(self.path, whole.encode())
        return whole.splitlines()
