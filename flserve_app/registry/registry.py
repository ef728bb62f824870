"""The registry: versions of models in one store.

History is a chain of deltas with a full keyframe at intervals; loading walks it back and verifies every step.
Publishing encodes first, makes the payload durable, and then commits version, payload and the label `latest`
in one transaction: a crash leaves the old state or the new one, and at most a blob that nothing names. The
same content published again is a new version without new bytes. History is made by a lossless codec, or is the
payload that was delivered, which leads there bit for bit. `verify`, `collection` and `bundle` work on whole stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, final

from flserve_app.artifact import Artifact
from flserve_app.errors import NotFound
from flserve_app.registry.archive import Archive
from flserve_app.registry.clock import utc_now
from flserve_app.registry.insist import insist
from flserve_app.registry.layout import BLOBS_FOLDER, CATALOG_FILE, open_layout
from flserve_app.registry.leases import LeaseKeeper
from flserve_app.registry.memory import Memory
from flserve_app.store import (
    BlobStore,
    Catalog,
    Clients,
    Database,
    DirBlobs,
    Draft,
    Edge,
    Expected,
    Holder,
    LabelMove,
    Labels,
    Run,
    Runs,
    RunState,
    Serving,
    Version,
    check_digest,
)
from flserve_app.store.bounds import check_publication

NO_METRICS: Mapping[str, float] = MappingProxyType({})
RECENT_BYTES = 256 << 20


@final
class Registry:
    """Versions of models; threads may share it, and processes may share its store.

    Args:
        database: The catalog; closed with the registry.
        blobs: Where payloads are kept.
        keyframe_every: The longest chain of payloads that loading may have to apply, at least 1.
        codec: Codec of the history; a lossless one.
        clock: Gives the time, with a time zone.
        recent_bytes: What recent artifacts may take in memory.

    Attributes without an underscore are the parts that other modules of this package work on.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        *,
        keyframe_every: int = 10,
        codec: str = "lossless",
        clock: Callable[[], datetime] = utc_now,
        recent_bytes: int = RECENT_BYTES,
    ) -> None:
        self.database, self.blobs = database, blobs
        self.catalog = Catalog(database, holds=blobs.has)
        self._labels, self._runs, self._clients = Labels(database), Runs(database), Clients(database)
        self.archive = Archive(
            self.catalog, blobs, keyframe_every=keyframe_every, codec=codec, recent_bytes=recent_bytes
        )
        self._memory = Memory(database, blobs, self.catalog.lacks)
        self.clock, self.leases = clock, LeaseKeeper(database, clock)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        create: bool = True,
        keyframe_every: int = 10,
        codec: str = "lossless",
        clock: Callable[[], datetime] = utc_now,
        recent_bytes: int = RECENT_BYTES,
    ) -> Self:
        """Open the store in a folder.

        Args:
            path: The folder; it holds `FORMAT`, `catalog.sqlite` and `blobs/`.
            create: Whether to make it if it is not there.
            keyframe_every: As of the class.
            codec: As of the class.
            clock: As of the class.
            recent_bytes: As of the class.

        Raises:
            NotFound: If it is not there and is not to be made.
            StoreError: If it cannot be opened, is no store, or was made by a newer flserve.
        """
        folder = Path(path).absolute()
        open_layout(folder, create=create)
        return cls(
            Database.at(folder / CATALOG_FILE),
            DirBlobs(folder / BLOBS_FOLDER),
            keyframe_every=keyframe_every,
            codec=codec,
            clock=clock,
            recent_bytes=recent_bytes,
        )

    def close(self) -> None:
        """Close the catalog."""
        self.database.close()

    def __enter__(self) -> Self:
        """Return the registry; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the catalog."""
        self.close()

    def publish(
        self,
        model: str,
        artifact: Artifact,
        *,
        round: int,
        codec: str,
        parent: int | None = None,
        run: str | None = None,
        metrics: Mapping[str, float] = NO_METRICS,
        serving: Serving | None = None,
        state: bytes | None = None,
        state_kind: str = "",
        delta: bytes | None = None,
    ) -> Version:
        """Publish an artifact as the next version of a model, and move `latest` to it.

        Args:
            model: Name of the model; made if it is new.
            artifact: The content.
            round: Federated round that made it; 0 for the initial one.
            codec: Name of the codec by which clients get it.
            parent: Number of the version it was derived from; history keeps the difference to it.
            run: Id of a started run.
            metrics: What is known of it already.
            serving: What serving it takes.
            state: What the strategy remembers; committed with the version or not at all.
            state_kind: Names the form of the state; needed with one.
            delta: A payload that leads to it; history keeps this one instead of making its own.

        Raises:
            CodecError: If the delta does not lead to the artifact.
            NotFound: If the parent or the run is not there.
            StoreError: If the store cannot keep it, or what it says is out of bounds; nothing was published then.
        """
        draft = Draft(
            model=model,
            digest=artifact.digest,
            nbytes=artifact.nbytes,
            parent=parent,
            round=round,
            run=run,
            codec=codec,
            metrics=metrics,
            created=self.clock(),
            serving=serving,
        )
        check_publication(draft, artifact)  # before anything is encoded
        version = insist(lambda: self._publish(draft, artifact, state, state_kind, delta))
        self.archive.remember(artifact)
        return version

    def save_state(self, model: str, number: int, data: bytes, kind: str) -> None:
        """Set the state of one of a model's last versions, replacing what it has. Raises NotFound, StoreError."""
        insist(lambda: self._memory.save(model, number, data, kind))

    def load_state(self, model: str, number: int) -> tuple[str, bytes] | None:
        """Return kind and bytes of a version's state, verified; None if it has none. Raises CorruptBlob."""
        return self._memory.load(model, number)

    def saw_clients(self, model: str, holders: Iterable[Holder]) -> None:
        """Record what clients of a model hold, in one transaction. Raises StoreError."""
        self._clients.saw(model, holders, now=self.clock())

    def clients(self, model: str) -> tuple[Holder, ...]:
        """Return the clients of a model as they were last seen, by identity."""
        return self._clients.of(model)

    def add_metrics(self, model: str, number: int, metrics: Mapping[str, float], *, keep: bool = False) -> Version:
        """Add metrics to a version, replacing those of the same name unless they are to be kept. Raises NotFound."""
        return self.catalog.add_metrics(model, number, metrics, keep=keep, lease=self.leases.token(model))

    def load(self, version: str | Version, ref: str | None = None) -> Artifact:
        """Return the artifact of a version, of a whole digest, or of `load(model, "latest")`, any name; verified.

        Raises:
            NotFound: If the store does not hold it, or not any more.
            CorruptBlob: If what the store holds is damaged.
            CodecError: If a payload cannot be decoded.
        """
        if isinstance(version, str) and ref is not None:
            from flserve_app.registry.named import load_named  # it works on this class

            return load_named(self, version, ref)[0][1]
        digest = version.digest if isinstance(version, Version) else check_digest(version)
        try:
            return self.archive.load(digest)
        except NotFound:
            self.archive.check_not_collected(
                digest, f"{version.model} {version.name}" if isinstance(version, Version) else f"artifact {digest}"
            )
            raise

    def chain(self, digest: str) -> tuple[Edge, ...]:
        """Return the payloads that make an artifact from nothing, first to last. Raises NotFound."""
        return self.archive.chain(digest)

    def edges(self, digest: str) -> tuple[Edge, ...]:
        """Return every stored payload on any way to an artifact."""
        return self.catalog.edges_behind(digest)

    def payload(self, target: str, base: str | None, codec: str) -> bytes | None:
        """Return the stored payload between two digests (or from nothing) by a codec, if any. Raises CorruptBlob."""
        return self.archive.payload(target, base, codec)

    def resolve(self, model: str, ref: str) -> Version:
        """Return the version that `latest`, a label, `v12`, `12` or the start of a digest names.

        Raises:
            NotFound: If it names none or several; the message names the choices.
        """
        return self.catalog.resolve(model, ref)[0]

    def models(self) -> tuple[str, ...]:
        """Return the names of the models that have a version, sorted."""
        return self.catalog.models()

    def exists(self, model: str) -> bool:
        """Whether a model has a version."""
        return self.latest(model) is not None

    def latest(self, model: str) -> Version | None:
        """Return the newest version of a model, if any."""
        return self.catalog.latest(model)

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return all versions of a model by number; none if it is not there."""
        return self.catalog.versions(model)

    def labels(self, model: str) -> dict[str, int]:
        """Return the labels of a model and the numbers they stand at."""
        return self._labels.of(model)

    def label_moves(self, model: str, label: str | None = None) -> tuple[LabelMove, ...]:
        """Return the moves of a model's labels (or of one), oldest first."""
        return self._labels.moves(model, label)

    def move_label(
        self, model: str, label: str, number: int, *, why: str, who: str = "", expect: Expected = ...
    ) -> LabelMove:
        """Move a label; see `Labels.move`. Raises Conflict, NotFound, StoreError."""
        return self._labels.move(model, label, number, who=who, why=why, moved=self.clock(), expect=expect)

    def start_run(self, run: str, model: str, *, config: Mapping[str, Any]) -> Run:
        """Record that a run starts. Raises Conflict if its id was used before."""
        return self._runs.start(run, model, config=config, started=self.clock())

    def finish_run(self, run: str, state: RunState = "finished") -> Run:
        """Record how a run ended. Raises NotFound."""
        return self._runs.finish(run, state, finished=self.clock())

    def runs(self, model: str | None = None) -> tuple[Run, ...]:
        """Return the runs (of one model), by start."""
        return self._runs.all(model)

    def _publish(self, draft: Draft, artifact: Artifact, data: bytes | None, kind: str, delta: bytes | None) -> Version:
        parent = None if draft.parent is None else self.catalog.version(draft.model, draft.parent)
        base = None if parent is None or parent.collected else parent.digest
        if parent is None:
            self.catalog.announce(draft.model)
        edges = self.archive.keep(artifact, base, delta)
        with self._memory.kept(draft.model, data, kind) as state:
            lease = self.leases.token(draft.model)
            return self.catalog.publish(draft, edges[0] if edges else None, state, also=edges[1:], lease=lease)
