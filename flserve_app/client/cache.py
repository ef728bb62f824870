"""Held versions on disk: one directory that the clients of a machine may share.

Layout: `blobs/<digest>/payload` is a full payload of the artifact, `blobs/<digest>/by/<client>` marks who
needs it, `clients/<client>/<model key>.json` is that client's reference
(and beside it `.leftover`, what its updates left out, and `.private`, the tensors that never leave it). Rules:
- A blob is stored once, however many clients hold it; a client lists only what its own reference names.
- Whoever moves on removes its mark; the last one removes the blob. Moves happen under a file lock.
- Nothing read is trusted: a payload is decoded and verified, and what does not verify is as good as absent.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from flserve_app.artifact import Artifact
from flserve_app.client.files import mapped, write_atomically
from flserve_app.client.reference import Reference, parse_reference
from flserve_app.client.verified import verified_artifacts
from flserve_app.codec import decode, encode_parts
from flserve_app.errors import FlserveError, StoreError

LOCK_SECONDS = 60.0


@final
class CacheDirectory:
    """The part of a cache directory that one client uses.

    Args:
        root: The directory; made when first written to.
        client: The client's identity, which is also a file name.
    """

    def __init__(self, root: Path, client: str) -> None:
        self.root = root
        self._client = client

    def references(self) -> tuple[Reference, ...]:
        """Return what this client holds, a reference a model; unreadable ones are left out."""
        found = []
        for path in sorted((self.root / "clients" / self._client).glob("*.json")):
            try:
                found.append(parse_reference(path.read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError, StoreError):
                continue
        return tuple(reference for reference in found if self._payload(reference.digest).exists())

    def load(self, digest: str) -> Artifact | None:
        """Return a held artifact, verified; None if it is gone, or damaged: then it is removed."""
        payload = self._payload(digest)
        known = verified_artifacts().get(payload)
        if known is not None:
            return known
        try:
            artifact = decode(mapped(payload))
        except OSError:
            return None
        except FlserveError:
            artifact = None
        if artifact is None or artifact.digest != digest:
            # Left in its place, it would keep the good one out.
            with suppress(OSError):
                payload.unlink()
            return None
        verified_artifacts().put(payload, artifact)
        return artifact

    def has(self, digest: str) -> bool:
        """Whether the directory has an artifact, for this client or another."""
        return self._payload(digest).exists()

    def at_hand(self, digest: str) -> Artifact | None:
        """Return an artifact that this process verified in this directory, whoever fetched it; None without one."""
        return verified_artifacts().get(self._payload(digest))

    def install(self, reference: Reference, artifact: Artifact) -> None:
        """Keep an artifact and make it the one this client holds of the model.

        Raises:
            OSError: If the directory cannot be written.
            StoreError: If another client keeps the directory locked.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        pointer = self._pointer(reference.model)
        try:
            with FileLock(self.root / "lock", timeout=LOCK_SECONDS):
                before = self._digest_at(pointer)
                self._keep(reference.digest, artifact)
                write_atomically(pointer, reference.to_json().encode())
                if before not in (None, reference.digest):
                    self._release(str(before))
        except Timeout as error:
            raise StoreError(f"cache {self.root} stayed locked for {LOCK_SECONDS:.0f} s") from error

    def beside(self, model: str) -> memoryview | None:
        """Return what is kept beside this client's version of a model; None if there is nothing."""
        try:
            return mapped(self._beside(model))
        except OSError:
            return None

    def put_beside(self, model: str, data: Sequence[bytes | memoryview]) -> None:
        """Keep something beside this client's version of a model; nothing is kept if the directory cannot be written.

        What was there before is gone then, too: it says no longer what is so.
        """
        path = self._beside(model)
        try:
            write_atomically(path, data)
        except OSError:
            with suppress(OSError):
                path.unlink()

    def private(self, model: str) -> memoryview | None:
        """Return this client's private tensors of a model; None if there are none."""
        try:
            return mapped(self._private(model))
        except OSError:
            return None

    def put_private(self, model: str, data: Sequence[bytes | memoryview]) -> None:
        """Keep this client's private tensors of a model, in place of those before.

        Raises:
            OSError: If the directory cannot be written; those before are still there then.
        """
        write_atomically(self._private(model), data, forced=True)

    def _private(self, model: str) -> Path:
        return self._pointer(model).with_suffix(".private")

    def _beside(self, model: str) -> Path:
        return self._pointer(model).with_suffix(".leftover")

    def _keep(self, digest: str, artifact: Artifact) -> None:
        payload = self._payload(digest)
        if not payload.exists():
            write_atomically(payload, encode_parts(artifact, codec="full"))
        # Also where another process wrote it: this one has just verified the artifact itself.
        verified_artifacts().put(payload, artifact)
        mark = payload.parent / "by" / self._client
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def _release(self, digest: str) -> None:
        if any(reference.digest == digest for reference in self.references()):
            return
        blob = self._payload(digest).parent
        (blob / "by" / self._client).unlink(missing_ok=True)
        if blob.exists() and not any((blob / "by").glob("*")):
            shutil.rmtree(blob)

    def _digest_at(self, pointer: Path) -> str | None:
        try:
            return parse_reference(pointer.read_text(encoding="utf-8")).digest
        except (OSError, UnicodeDecodeError, StoreError):
            return None

    def _payload(self, digest: str) -> Path:
        return self.root / "blobs" / digest / "payload"

    def _pointer(self, model: str) -> Path:
        key = hashlib.sha256(model.encode()).hexdigest()[:16]
        return self.root / "clients" / self._client / f"{key}.json"
