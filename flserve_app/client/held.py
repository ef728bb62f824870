"""What one client holds, wherever it is kept.

Rules:
- Small models (`STATE_BYTES`) of a node without a cache directory, and all models where no directory can be
  written, are kept in `context.state`, which Flower carries from message to message within a run.
- All others are kept in a cache directory, and `context.state` carries the reference: the node's
  `cache-dir` (then they survive runs and restarts), `FLSERVE_CACHE_DIR`, a directory of the run under the
  system's temporary directory for nodes that have a `partition-id` (as all simulated ones do), or the
  user's cache directory. `cache_root` says which can be used.
- Private tensors are kept in the same place, those of each history apart. Nobody could send them again, so where the
  directory cannot be written they go into the state. In a simulation they lie beside the run's store, and so does what
  was left out of updates (`own_place`): a run that is resumed finds both.
- Private tensors that were trained for a version that was never followed by one go back to what they were before, once
  a run is resumed from it: that round is done again.
- What is held is held of a model *of a federation*: servers that share a machine, and even a model's name, are not
  told of each other's versions, and are not given them.
- A server never names a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from logging import WARNING
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.common.logger import log

from flserve_app.artifact import Artifact
from flserve_app.client import aside
from flserve_app.client.cache import CacheDirectory
from flserve_app.client.cache_root import CacheRoot, cache_root
from flserve_app.client.cache_root import cache_directory as cache_directory
from flserve_app.client.files import make_private
from flserve_app.client.identity import identity
from flserve_app.client.own_place import forget_old_runs
from flserve_app.client.policy import SitePolicy
from flserve_app.client.private_files import Trained
from flserve_app.client.reference import Reference, parse_reference, reference_key
from flserve_app.client.verified import remember_way
from flserve_app.client.wire import payload_array
from flserve_app.codec import decode, encode
from flserve_app.errors import FlserveError, StoreError
from flserve_app.text import plain

STATE_BYTES = 1 << 20
MOST_REFERENCES = 64


@final
class Held:
    """The versions a client holds, one a model of a federation.

    Args:
        context: The context of the message at hand; its `state` is read and written.
        policy: What the node's owner allows; the defaults if it is left out.
    """

    def __init__(self, context: Context, policy: SitePolicy | None = None) -> None:
        self._context = context
        self.policy = policy or SitePolicy()
        self._root = cache_root(context.node_config, context.run_id, context.node_id)
        self.identity = self._identified(context, self._root)
        self._kept: tuple[Reference, ...] | None = None
        path = self._root.path
        self._cache = None if path is None else CacheDirectory(path, self.identity, self.policy)
        own = self._root.own
        self._own = self._cache if own is None else CacheDirectory(own, self.identity, self.policy)
        if path is None and self.identity == f"node-{context.node_id}":
            self._say(f"is named by its node, an identity cannot be read or kept; it {self._root.trouble}")

    @property
    def _state(self) -> RecordDict:
        return aside.records_of(self._context)

    def references(self) -> tuple[Reference, ...]:
        """Return what the client says it holds, a reference a model of a federation, the newest last."""
        if self._kept is None:
            lasts = self._cache is not None and self._root.lasting
            self._kept = self._cache.references() if self._cache is not None and lasts else ()
        found = {each.key: each for each in self._kept}
        for each in self.delivered():
            found.pop(each.key, None)
            found[each.key] = each
        return tuple(found.values())

    def delivered(self) -> tuple[Reference, ...]:
        """Return what was delivered to the client in this run, the newest last."""
        record = self._state.get(aside.REFERENCES)
        try:
            lines = record.values() if isinstance(record, ConfigRecord) else ()
            return tuple(parse_reference(str(line)) for line in lines)
        except StoreError:
            return ()

    def digests(self, model: str | None = None, federation: str = "") -> tuple[str, ...]:
        """Return the hex digests of the artifacts held of a model of a federation; of all where `model` is None."""
        key = None if model is None else reference_key(model, federation)
        found = [each.digest for each in self.references() if key is None or each.key == key]
        return tuple(dict.fromkeys(found))

    def load(self, digest: str) -> Artifact | None:
        """Return an artifact held of any model, verified; None if this client does not hold it or it is damaged."""
        if digest not in self.digests():
            return None
        arrays = self._state.get(aside.ARRAYS)
        if isinstance(arrays, ArrayRecord) and digest in arrays:
            try:
                artifact = decode(arrays[digest].data)
            except FlserveError:
                return None
            return artifact if artifact.digest == digest else None
        return None if self._cache is None else self._cache.load(digest)

    def at_hand(self, digest: str, way: str) -> Artifact | None:
        """Return an artifact that another client of this machine came to by the same way in this process; or None.

        It saves decoding a payload that leads there; it is no version of this client's until it is installed.
        """
        return None if self._cache is None else self._cache.at_hand(digest, way)

    def install(self, reference: Reference, artifact: Artifact, way: str = "") -> None:
        """Make an artifact the version this client holds of a model, and remember the way that led to it."""
        if self._root.trouble:
            self._say(self._root.trouble)
        self._kept = None
        if self._cache is not None and self._on_disk(artifact.nbytes) and self._install_on_disk(reference, artifact):
            self._refer(reference, None)
            if way:
                remember_way(self._cache.root, way, reference.digest)
        else:
            self._refer(reference, artifact)

    def beside(self, model: str, nbytes: int, federation: str | None = None) -> bytes | memoryview | None:
        """Return what is kept beside a version of a model; None if there is nothing.

        Args:
            model: The model's name.
            nbytes: Its bytes.
            federation: The history it is of; None for the one that was installed last.
        """
        key = self._key(model, federation)
        if self._keeps_own(nbytes):
            return None if self._own is None else self._own.beside(key)
        kept = self._state.get(aside.BESIDE)
        return kept[key].data if isinstance(kept, ArrayRecord) and key in kept else None

    def carries(self, model: str, federation: str) -> bool:
        """Whether anything is kept beside a version of a model, as far as can be told without knowing its size."""
        kept, key = self._state.get(aside.BESIDE), self._key(model, federation)
        in_memory = isinstance(kept, ArrayRecord) and key in kept
        return in_memory or (self._own is not None and self._own.beside(key) is not None)

    def put_beside(
        self, model: str, nbytes: int, data: Sequence[bytes | memoryview], federation: str | None = None
    ) -> None:
        """Keep something beside a version of a model, where it is kept; nothing if that cannot be written."""
        key = self._key(model, federation)
        if self._keeps_own(nbytes):
            if self._own is not None:
                with suppress(OSError):
                    self._claim()
                    self._own.put_beside(key, data)
            return
        kept = list(self._state.get(aside.BESIDE, ArrayRecord()).items())[-MOST_REFERENCES:]
        self._state[aside.BESIDE] = ArrayRecord({**dict(kept), key: payload_array(b"".join(data))})

    def _key(self, model: str, federation: str | None) -> str:
        if federation is not None:
            return reference_key(model, federation)
        return next((each.key for each in reversed(self.references()) if each.model == model), model)

    def private(self, model: str, key: str = "", at: str = "") -> bytes | memoryview | None:
        """Return the private tensors that are kept of a model, as they were given; None if there are none.

        Args:
            model: Its name.
            key: Key of their layout; empty for those that were kept last.
            at: The version that they are asked for (`version_at`): what an earlier run made of them there is not it.
        """
        kept = self._state.get(aside.PRIVATE)
        found = [] if not isinstance(kept, ArrayRecord) else [at for at in kept if at.partition("\n")[0] == model]
        if key:
            found = [at for at in found if at == reference_key(model, key)]
        if found and isinstance(kept, ArrayRecord):
            return kept[found[-1]].data
        if self._own is None:
            return None
        before = self._own.private.before(model, key, at) if at and self._trained_at(model, key) != at else None
        return self._own.private.get(model, key) if before is None else before

    def put_private(
        self, model: str, data: Sequence[bytes | memoryview], key: str = "", trained: Trained | None = None
    ) -> None:
        """Keep private tensors of a model, in place of those before of the same layout.

        Args:
            model: Its name.
            data: The tensors.
            key: Key of their layout.
            trained: What they were before they were trained, and for which version; None if they were not.

        Raises:
            StoreError: If there is no room for those of another layout.
        """
        at = reference_key(model, key)
        kept = dict(self._state.get(aside.PRIVATE, ArrayRecord()))
        kept.pop(at, None)
        wanted = self._own is None or self._keeps_own(sum(map(len, data)))
        if not (wanted and self._put_private_on_disk(model, data, key, trained)):
            kept[at] = payload_array(b"".join(data))
        self._state[aside.PRIVATE] = ArrayRecord(kept)

    def _put_private_on_disk(
        self, model: str, data: Sequence[bytes | memoryview], key: str, trained: Trained | None
    ) -> bool:
        if self._own is None:
            self._say(f"keeps its private tensors in memory, until the run ends; it {self._root.trouble}")
            return False
        try:
            self._claim()
            # Training that goes on with what it made of the same version itself goes back to what was before both.
            if trained is not None and self._trained_at(model, key) != trained.at:
                self._own.private.put_before(model, key, trained)
                lines = self._state.config_records.get(aside.TRAINED, ConfigRecord())
                self._state[aside.TRAINED] = ConfigRecord({**lines, reference_key(model, key): trained.at})
            self._own.private.put(model, key, data)
        except OSError as error:
            self._say(f"keeps its private tensors in memory, until the run ends: {error}")
            return False
        return True

    def _trained_at(self, model: str, key: str) -> str:
        """Return for which version this run trained a model's private tensors last."""
        lines = self._state.get(aside.TRAINED)
        return str(lines.get(reference_key(model, key), "")) if isinstance(lines, ConfigRecord) else ""

    def _keeps_own(self, nbytes: int) -> bool:
        return self._root.own is not None or self._on_disk(nbytes)

    def _on_disk(self, nbytes: int) -> bool:
        return self._root.lasting or nbytes > STATE_BYTES

    def _install_on_disk(self, reference: Reference, artifact: Artifact) -> bool:
        if self._cache is None:
            return False
        try:
            self._claim()
            if done := self._cache.install(reference, artifact):
                self._say(done)
        except (OSError, StoreError) as error:
            self._say(f"keeps its version in memory, the cache cannot be written: {error}")
            return False
        return True

    def _claim(self) -> None:
        if self._root.guarded is not None:
            make_private(self._root.guarded)
        if self._cache is not None and not self._root.lasting:
            forget_old_runs(self._cache.root)

    def _refer(self, reference: Reference, artifact: Artifact | None) -> None:
        others = {found.key: found for found in self.delivered()[-MOST_REFERENCES:] if found.key != reference.key}
        references = {**others, reference.key: reference}
        self._state[aside.REFERENCES] = ConfigRecord({key: found.to_json() for key, found in references.items()})
        arrays = self._state.get(aside.ARRAYS, ArrayRecord())
        needed = {found.digest for found in references.values()}
        kept = {digest: array for digest, array in arrays.items() if digest in needed}
        if artifact is not None:
            kept[reference.digest] = payload_array(encode(artifact, codec="full"))
        self._state[aside.ARRAYS] = ArrayRecord(kept)

    def _identified(self, context: Context, root: CacheRoot) -> str:
        try:
            return identity(context.node_config, root.path if root.lasting else None, context.node_id)
        except StoreError as error:
            self.identity = identity(context.node_config, None, context.node_id)
            self._say(str(error))
            return self.identity

    def _say(self, what: str) -> None:
        """Warn of something once a run: the state goes with the client from message to message."""
        line, said = plain(what, 1000), self._state.get(aside.SAID)
        before = list(said) if isinstance(said, ConfigRecord) else []
        if line not in before:
            log(WARNING, "flserve: %s %s", self.identity, line)
            self._state[aside.SAID] = ConfigRecord(dict.fromkeys([*before[-7:], line], True))
