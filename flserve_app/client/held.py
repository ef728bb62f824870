"""What one client holds, wherever it is kept.

Rules:
- Small models (`STATE_BYTES`) of a node without a cache directory, and all models where no directory can be
  written, are kept in `context.state`, which Flower carries from message to message within a run.
- All others are kept in a cache directory, and `context.state` carries the reference: the node's
  `cache-dir` (then they survive runs and restarts), `FLSERVE_CACHE_DIR`, a directory of the run under the
  system's temporary directory for nodes that have a `partition-id` (as all simulated ones do), or the
  user's cache directory.
- Private tensors are kept in the same place. Nobody could send them again, so where the directory cannot be
  written they go into the state.
- A server never names a path. It may name a digest: a directory that outlives runs is searched for it, whichever
  model and client of the machine it was fetched for.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from logging import WARNING
from pathlib import Path
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.common.logger import log

from flserve_app.artifact import Artifact
from flserve_app.client.cache import CacheDirectory
from flserve_app.client.files import make_private
from flserve_app.client.identity import identity
from flserve_app.client.reference import Reference, parse_reference
from flserve_app.client.wire import payload_array
from flserve_app.codec import decode, encode
from flserve_app.errors import FlserveError, StoreError

STATE_BYTES = 1 << 20
FORGET_SECONDS = 24 * 3600.0
_REFERENCES = "flserve.held"
_ARRAYS = "flserve.arrays"
_BESIDE = "flserve.leftover"
_PRIVATE = "flserve.private"


@final
class Held:
    """The versions a client holds, one a model.

    Args:
        context: The context of the message at hand; its `state` is read and written.
    """

    def __init__(self, context: Context) -> None:
        self._state: RecordDict = context.state
        directory, self._lasting = cache_directory(context.node_config, context.run_id, context.node_id)
        self.identity = _identity(context, directory if self._lasting else None)
        self._cache = CacheDirectory(directory, self.identity)

    def references(self) -> tuple[Reference, ...]:
        """Return what the client says it holds, a reference a model."""
        record = self._state.get(_REFERENCES)
        if not isinstance(record, ConfigRecord):
            return self._cache.references() if self._lasting else ()
        try:
            return tuple(parse_reference(str(line)) for line in record.values())
        except StoreError:
            return ()

    def digests(self, model: str = "") -> tuple[str, ...]:
        """Return the hex digests of all held artifacts; those of a model come first, as the best bases for it."""
        references = sorted(self.references(), key=lambda reference: reference.model != model)
        return tuple(dict.fromkeys(reference.digest for reference in references))

    def finds(self, digest: str) -> bool:
        """Whether an artifact is in a directory that outlives runs, whoever of this machine fetched it."""
        return self._lasting and self._cache.has(digest)

    def load(self, digest: str) -> Artifact | None:
        """Return a held artifact, verified; None if this client does not hold it or it is damaged."""
        if digest not in self.digests() and not self.finds(digest):
            return None
        arrays = self._state.get(_ARRAYS)
        if isinstance(arrays, ArrayRecord) and digest in arrays:
            try:
                artifact = decode(arrays[digest].data)
            except FlserveError:
                return None
            return artifact if artifact.digest == digest else None
        return self._cache.load(digest)

    def at_hand(self, digest: str) -> Artifact | None:
        """Return an artifact that another client of this machine fetched and this process verified; None without one.

        It saves decoding a payload that leads there; it is no version of this client's until it is installed.
        """
        return self._cache.at_hand(digest)

    def install(self, reference: Reference, artifact: Artifact) -> None:
        """Make an artifact the version this client holds of a model."""
        if self._on_disk(artifact.nbytes) and self._install_on_disk(reference, artifact):
            self._refer(reference, None)
        else:
            self._refer(reference, artifact)

    def beside(self, model: str, nbytes: int) -> bytes | memoryview | None:
        """Return what is kept beside a model of `nbytes`; None if there is nothing."""
        if self._on_disk(nbytes):
            return self._cache.beside(model)
        kept = self._state.get(_BESIDE)
        return kept[model].data if isinstance(kept, ArrayRecord) and model in kept else None

    def put_beside(self, model: str, nbytes: int, data: Sequence[bytes | memoryview]) -> None:
        """Keep something beside a model of `nbytes`, where its version is kept; nothing if that cannot be written."""
        if self._on_disk(nbytes):
            with suppress(OSError):
                self._claim()
                self._cache.put_beside(model, data)
            return
        kept = self._state.get(_BESIDE, ArrayRecord())
        self._state[_BESIDE] = ArrayRecord({**kept, model: payload_array(b"".join(data))})

    def private(self, model: str) -> bytes | memoryview | None:
        """Return the private tensors that are kept of a model, as they were given; None if there are none."""
        kept = self._state.get(_PRIVATE)
        if isinstance(kept, ArrayRecord) and model in kept:
            return kept[model].data
        return self._cache.private(model)

    def put_private(self, model: str, data: Sequence[bytes | memoryview]) -> None:
        """Keep private tensors of a model, in place of those before."""
        kept = dict(self._state.get(_PRIVATE, ArrayRecord()))
        kept.pop(model, None)
        if not (self._on_disk(sum(map(len, data))) and self._put_private_on_disk(model, data)):
            kept[model] = payload_array(b"".join(data))
        self._state[_PRIVATE] = ArrayRecord(kept)

    def _put_private_on_disk(self, model: str, data: Sequence[bytes | memoryview]) -> bool:
        try:
            self._claim()
            self._cache.put_private(model, data)
        except OSError as error:
            log(
                WARNING, "flserve: %s keeps its private tensors in memory, until the run ends: %s", self.identity, error
            )
            return False
        return True

    def _on_disk(self, nbytes: int) -> bool:
        return self._lasting or nbytes > STATE_BYTES

    def _install_on_disk(self, reference: Reference, artifact: Artifact) -> bool:
        try:
            self._claim()
            self._cache.install(reference, artifact)
        except (OSError, StoreError) as error:
            log(
                WARNING,
                "flserve: %s keeps its version in memory, the cache cannot be written: %s",
                self.identity,
                error,
            )
            return False
        return True

    def _claim(self) -> None:
        if not self._lasting:
            make_private(self._cache.root.parent)
            forget_old_runs(self._cache.root)

    def _refer(self, reference: Reference, artifact: Artifact | None) -> None:
        references = {found.model: found for found in self.references()} | {reference.model: reference}
        self._state[_REFERENCES] = ConfigRecord({model: found.to_json() for model, found in references.items()})
        arrays = self._state.get(_ARRAYS, ArrayRecord())
        needed = {found.digest for found in references.values()}
        kept = {digest: array for digest, array in arrays.items() if digest in needed}
        if artifact is not None:
            kept[reference.digest] = payload_array(encode(artifact, codec="full"))
        self._state[_ARRAYS] = ArrayRecord(kept)


def forget_old_runs(root: Path) -> None:
    """Remove what runs of more than `FORGET_SECONDS` ago left beside a run's directory that is about to be made."""
    if root.exists():
        return
    for other in root.parent.glob("run-*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (other, *other.iterdir()))
            if time.time() - newest > FORGET_SECONDS:
                shutil.rmtree(other, ignore_errors=True)


def cache_directory(node_config: Mapping[str, object], run_id: int, node_id: int) -> tuple[Path, bool]:
    """Return the node's cache directory, and whether it outlives the run."""
    if configured := str(node_config.get("cache-dir", "") or os.environ.get("FLSERVE_CACHE_DIR", "")):
        return Path(configured).expanduser().absolute(), True
    if "partition-id" in node_config:
        owner = os.getuid() if hasattr(os, "getuid") else 0
        return Path(tempfile.gettempdir()) / f"flserve-{owner}" / f"run-{run_id}", False
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return home / "flserve" / f"node-{node_id}", True


def _identity(context: Context, directory: Path | None) -> str:
    try:
        return identity(context.node_config, directory, context.node_id)
    except StoreError as error:
        log(WARNING, "flserve: %s", error)
        return identity(context.node_config, None, context.node_id)
