"""Artifacts kept as payloads: a chain of deltas with a full keyframe at intervals.

Keeping writes a payload while it is encoded, so that it is never in memory as a whole, and makes it durable, but
names it nowhere: that is the catalog's commit. Loading takes
the cheapest chain from a keyframe or from a recent artifact, one step after another, and verifies each. A payload
that is damaged or gone is avoided as long as another chain leads there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import final

from flserve_app.artifact import Artifact
from flserve_app.codec import encode_parts, inspect
from flserve_app.errors import CodecError, FlserveError, NotFound, StoreError
from flserve_app.registry.derive import apply
from flserve_app.registry.history import cheapest_chain, delta_is_too_big, keyframe_is_due
from flserve_app.registry.insist import ATTEMPTS
from flserve_app.registry.recent import RecentArtifacts
from flserve_app.store import BlobStore, Catalog, Edge, NewBlob


@final
class Archive:
    """The artifacts of one store; threads may share it.

    Args:
        catalog: Knows which payloads lead where.
        blobs: Holds the payloads.
        keyframe_every: The longest chain of payloads that loading may have to apply, at least 1.
        codec: Codec of the history; a lossless one.
        recent_bytes: What recent artifacts may take in memory.
    """

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, *, keyframe_every: int, codec: str, recent_bytes: int
    ) -> None:
        if keyframe_every < 1:
            raise StoreError(f"keyframe_every must be at least 1, found {keyframe_every}")
        self._catalog = catalog
        self._blobs = blobs
        self._keyframe_every = keyframe_every
        self._codec = codec
        self._recent = RecentArtifacts(recent_bytes)

    def keep(self, artifact: Artifact, base: str | None, delta: bytes | None = None) -> tuple[Edge, ...]:
        """Make an artifact durable.

        Args:
            artifact: The content.
            base: Digest of an artifact that it probably resembles, or None. If that cannot be made (any more), this
                one stands alone.
            delta: A payload by any codec that leads there from another artifact, to be kept instead of one made here.

        Returns:
            The edges that the catalog has to add; none if it leads to this artifact already.

        Raises:
            CodecError: If the delta is damaged, or leads elsewhere.
            StoreError: If the blob store cannot keep the payload.
        """
        if delta is not None:
            return self._keep_delta(artifact, delta)
        if self._catalog.edges_behind(artifact.digest):
            return ()
        chain, source = ((), None) if base is None else self._source(base)
        if source is None:
            return (self._keyframe(artifact),)
        with self._blobs.writing(encode_parts(artifact, source, self._codec)) as made:
            if delta_is_too_big(made.nbytes, chain):
                with self._blobs.writing(encode_parts(artifact, None, self._codec)) as keyframe:
                    if keyframe.nbytes <= made.nbytes:
                        return (self._kept(keyframe, artifact, None),)
            return (self._kept(made, artifact, base),)

    def remember(self, artifact: Artifact) -> None:
        """Keep an artifact in memory as the most recent one."""
        self._recent.put(artifact)

    def load(self, digest: str) -> Artifact:
        """Return an artifact, verified.

        Raises:
            NotFound: If it is not kept.
            CorruptBlob: If what is kept is damaged.
            CodecError: If a payload cannot be decoded.
        """
        recent = self._recent.snapshot()
        artifact = recent.get(digest)
        if artifact is None:
            artifact = self._derive(digest, recent)
        self._recent.put(artifact)
        return artifact

    def check_not_collected(self, digest: str, what: str) -> None:
        """Raise NotFound if an artifact was collected: it says of what, and when."""
        if (when := self._catalog.collected(digest)) is not None:
            raise NotFound(f"{what} was collected on {when:%Y-%m-%d}: the store keeps no content of it")

    def keyframe(self, digest: str) -> Edge:
        """Make a kept artifact stand alone: its payload is durable, its edge left to the catalog."""
        return self._keyframe(self.load(digest))

    def forget(self, digests: Iterable[str]) -> None:
        """Drop artifacts from memory."""
        self._recent.drop(digests)

    def chain(self, digest: str, at_hand: Collection[str] = ()) -> tuple[Edge, ...]:
        """Return the payloads that make an artifact from nothing, or from one at hand. Raises NotFound."""
        return cheapest_chain(digest, self._catalog.edges_behind(digest), at_hand)

    def payload(self, target: str, base: str | None, codec: str) -> bytes | None:
        """Return the payload kept between two artifacts (or from nothing) by a codec, if there is one."""
        edge = self._catalog.edge(target, base, codec)
        try:
            return None if edge is None else self._blobs.get(edge.blob, max_bytes=edge.nbytes)
        except NotFound:  # collected since, or lost: it can be made again
            return None

    def _keep_delta(self, artifact: Artifact, delta: bytes) -> tuple[Edge, ...]:
        """Keep a given payload, and a keyframe beside it if one is due."""
        said = inspect(delta)
        if said.target != artifact.digest or said.base is None:
            raise CodecError(f"delta leads from {said.base} to {said.target}, expected a base and {artifact.digest}")
        if self._catalog.edges_behind(artifact.digest):
            return ()
        try:
            chain = self.chain(said.base)
        except NotFound:  # collected a moment ago: what is new must not be lost with what is old
            return (self._keyframe(artifact),)
        with self._blobs.writing((delta,)) as payload:
            edge = self._kept(payload, artifact, said.base, said.codec)
        return (edge, self._keyframe(artifact)) if keyframe_is_due(chain, self._keyframe_every) else (edge,)

    def _keyframe(self, artifact: Artifact) -> Edge:
        with self._blobs.writing(encode_parts(artifact, None, self._codec)) as keyframe:
            return self._kept(keyframe, artifact, None)

    def _kept(self, payload: NewBlob, artifact: Artifact, base: str | None, codec: str = "") -> Edge:
        payload.keep()
        return Edge(
            target=artifact.digest,
            base=base,
            codec=codec or self._codec,
            blob=payload.digest,
            nbytes=payload.nbytes,
        )

    def _derive(self, digest: str, recent: Mapping[str, Artifact]) -> Artifact:
        failed: dict[str, FlserveError] = {}
        moved = 0
        while True:
            # Read again after a failure: a collection may just have replaced the chain.
            edges = self._catalog.edges_behind(digest)
            try:
                chain = cheapest_chain(digest, [edge for edge in edges if edge.blob not in failed], recent)
            except NotFound as error:
                raise next(iter(failed.values()), error) if edges else error from None
            artifact = recent.get(chain[0].base or "")
            for edge in chain:
                try:
                    artifact = self._apply(edge, artifact)
                except FlserveError as error:
                    # What is gone and not missed went with a chain that a collection has replaced.
                    if isinstance(error, NotFound) and moved < ATTEMPTS and not self._catalog.lacks(edge.blob):
                        moved += 1
                    else:
                        failed[edge.blob] = error
                    break
            else:
                if artifact is not None:
                    return artifact

    def _apply(self, edge: Edge, base: Artifact | None) -> Artifact:
        return apply(edge, self._blobs.view(edge.blob, max_bytes=edge.nbytes), base)

    def _source(self, base: str) -> tuple[tuple[Edge, ...], Artifact | None]:
        """Return the chain to a base, and the base unless a keyframe is due or it cannot be made."""
        try:
            chain = self.chain(base)
            return chain, None if keyframe_is_due(chain, self._keyframe_every) else self.load(base)
        except FlserveError:
            # Damaged, or collected a moment ago: what is new must not be lost with what is old.
            return (), None
