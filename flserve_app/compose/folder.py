"""The folder of one run: everything it leaves behind.

`config.yaml` (resolved), `history.jsonl` (a row a round, appended and flushed as rounds end, so that a killed
run keeps what it did), `summary.json` (written at the end, atomically) and `store/`, unless a shared store is
named. All are strict JSON or YAML: a number that is not finite is null.

Rules:
- Nothing is written before a run is admitted. One run makes `history.jsonl`, and locks it while it lasts: a folder
  that has one holds a run, and takes another only to go on with the same model.
- A run that ends before its first row leaves the files of the run before it as they were.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, final

from omegaconf import OmegaConf

from flserve_app.disk.durable import force
from flserve_app.errors import Conflict, StoreError
from flserve_app.places import CONFIG_FILE, HISTORY_FILE, SUMMARY_FILE, published_as, published_as_told
from flserve_app.store import make_folder, write_file
from flserve_app.store.files import remove_file
from flserve_app.strategy import RoundRow
from flserve_app.text import strict_json

NO_FILES: Mapping[str, str] = {}
LOOKING_SECONDS = 5.0  # who was refused lets go of the file long before


@final
class RunFolder:
    """Writes a run's files.

    Args:
        path: The folder; made when a run is admitted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._rows = 0

    def check(self, resolved: Mapping[str, Any]) -> None:
        """Refuse a run that may not write here; nothing is written.

        Args:
            resolved: Its resolved configuration.

        Raises:
            Conflict: If the folder holds another run, which this one does not go on with.
            StoreError: If it cannot be looked at.
        """
        try:
            taken = any((self.path / name).exists() for name in (HISTORY_FILE, SUMMARY_FILE))
            if taken and not resolved["resume"]:
                raise Conflict(
                    f"run folder {self.path} holds a run: continue it with resume=true, or choose another hydra.run.dir"
                )
            text = (self.path / CONFIG_FILE).read_text(encoding="utf-8", errors="replace") if taken else ""
        except FileNotFoundError:
            text = ""
        except OSError as error:
            raise StoreError(f"run folder {self.path} cannot be read: {error.strerror}") from error
        if taken and (held := published_as_told(text)) != (wanted := published_as(resolved)):
            known = "one whose config.yaml cannot be read" if held is None else f"one of model {held!r}"
            raise Conflict(f"run folder {self.path} holds {known}, not of {wanted!r}: choose another hydra.run.dir")

    @contextmanager
    def admitted(self, resolved: Mapping[str, Any], also: Mapping[str, str] = NO_FILES) -> Iterator[None]:
        """Let a run write here for a block; if it fails before its first row, what it replaced is put back.

        Args:
            resolved: Its resolved configuration.
            also: Further files that say how it was started, by their paths in the folder.

        Raises:
            Conflict: As `check`.
            StoreError: If the folder cannot be made or written.
        """
        files = {CONFIG_FILE: OmegaConf.to_yaml(OmegaConf.create(dict(resolved))), **also}
        self.check(resolved)
        with self._locked() as new:
            if not new:
                self.check(resolved)
            before = {name: (self.path / name).read_bytes() for name in files if (self.path / name).is_file()}
            try:
                for name, text in files.items():
                    make_folder((self.path / name).parent)
                    self._write(name, text)
                yield
            except BaseException:
                if not self._rows:
                    self._put_back(before, new=new)
                raise

    def append(self, row: RoundRow) -> None:
        """Append a round's row to the history.

        Raises:
            StoreError: If it cannot be written.
        """
        try:
            with (self.path / HISTORY_FILE).open("a", encoding="utf-8") as file:
                file.write(strict_json(asdict(row)) + "\n")
                file.flush()
                force(file.fileno())
        except OSError as error:
            raise StoreError(f"{self.path / HISTORY_FILE} cannot be written: {error}") from error
        self._rows += 1

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary. Raises StoreError."""
        self._write(SUMMARY_FILE, strict_json(dict(summary), indent=2) + "\n")

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Lock the history for a block, and tell whether it is new: of two runs that come at once, one gets it."""
        path = self.path / HISTORY_FILE
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            file = path.open("x" if new else "a", encoding="utf-8")
        except OSError as error:
            if error.errno == errno.EEXIST and self.path.is_dir():
                raise Conflict(f"run folder {self.path} was taken by another run at the same time") from error
            raise StoreError(f"run folder {self.path} cannot be made or written: {error.strerror}") from error
        with file:
            # Who made the file is the one: others may look at it first, who are then refused and let go of it at once.
            deadline = time.monotonic() + (LOOKING_SECONDS if new else 0.0)
            while not self._lock(file, last=time.monotonic() >= deadline):
                time.sleep(0.01)
            yield new

    def _lock(self, file: TextIO, *, last: bool) -> bool:
        """Return whether a file could be locked; raise Conflict if not and this was the last try."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if last:
                raise Conflict(f"run folder {self.path} is in use by another run: choose another") from error
            return False
        except OSError:
            pass  # a file system without locks: the model's lease is what is left
        return True

    def _put_back(self, before: Mapping[str, bytes], *, new: bool) -> None:
        for name, content in before.items():
            write_file(self.path / name, content)
        if new:
            remove_file(self.path / HISTORY_FILE)

    def _write(self, name: str, text: str) -> None:
        write_file(self.path / name, text.encode())
