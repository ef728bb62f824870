"""Held versions on disk: one directory that the clients of a machine may share.

Layout: `blobs/<digest>/payload` is a full payload of the artifact, `blobs/<digest>/by/<client>` marks who
needs it, `clients/<client>/<key>.json` is that client's reference to a model of a federation
(and beside it `.leftover`, what its updates left out, and `.private`, the tensors that never leave it). Rules:
- A blob is stored once, however many clients hold it; a client lists only what its own reference names.
- References are read by whoever shares the directory: who cannot read one does not know what it needs (`needed`).
- Whoever moves on removes its mark; the last one removes the blob. Moves happen under a file lock, and whoever
  moves sweeps the directory (`sweep`).
- Nothing read is trusted: only regular files are opened, a payload is decoded and verified, and what does not
  verify is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from flserve_app.artifact import Artifact
from flserve_app.client.files import mapped, write_atomically
from flserve_app.client.needed import digest_at, marks
from flserve_app.client.policy import SitePolicy
from flserve_app.client.private_files import PrivateFiles
from flserve_app.client.reference import Reference, parse_reference
from flserve_app.client.sweep import sweep_when_due
from flserve_app.client.verified import led_to, verified_artifacts
from flserve_app.codec import decode, encode_parts
from flserve_app.codec.decoder import DEFAULT_MAX_BYTES
from flserve_app.disk.regular import is_regular, read_regular
from flserve_app.errors import FlserveError, StoreError

LOCK_SECONDS = 60.0


@final
class CacheDirectory:
    """The part of a cache directory that one client uses.

    Args:
        root: The directory; made when first written to.
        client: The client's identity, which is also a file name.
        policy: What may be kept.
    """

    def __init__(self, root: Path, client: str, policy: SitePolicy | None = None) -> None:
        self.root = root
        self._client = client
        self._folder = root / "clients" / client
        self._policy = policy or SitePolicy()
        self.private = PrivateFiles(self._folder, self._policy.cache_bytes)

    def references(self) -> tuple[Reference, ...]:
        """Return what this client holds, a reference a model, the newest last; unreadable ones are left out."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            with suppress(OSError, UnicodeDecodeError, StoreError):
                found.append((path.lstat().st_mtime_ns, parse_reference(read_regular(path).decode())))
        found.sort(key=lambda each: each[0])
        return tuple(reference for _, reference in found if is_regular(self._payload(reference.digest)))

    def load(self, digest: str) -> Artifact | None:
        """Return a held artifact, verified, and note that it is in use; None if it is gone or damaged.

        A damaged one is removed.
        """
        artifact = self._loaded(digest)
        if artifact is not None:
            self._renew(digest)
        return artifact

    def _loaded(self, digest: str) -> Artifact | None:
        payload = self._payload(digest)
        known = verified_artifacts().get(payload)
        if known is not None:
            return known
        try:
            # It was within the bounds when it was fetched; whether it still is, is asked where it is used.
            artifact = decode(mapped(payload), max_bytes=max(DEFAULT_MAX_BYTES, self._policy.max_model_bytes))
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

    def _renew(self, digest: str) -> None:
        for path in self._folder.glob("*.json"):
            if digest_at(path) == digest:
                with suppress(OSError):  # a cache that may only be read is read all the same
                    os.utime(path)

    def at_hand(self, digest: str, way: str) -> Artifact | None:
        """Return an artifact that this process verified in this directory and was led to by the same way; or None."""
        return verified_artifacts().get(self._payload(digest)) if led_to(self.root, way) == digest else None

    def install(self, reference: Reference, artifact: Artifact) -> str:
        """Keep an artifact and make it the one this client holds of the model.

        Returns:
            What the client should be told of what that did; empty if there is nothing.

        Raises:
            OSError: If the directory cannot be written.
            StoreError: If another client keeps the directory locked.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        pointer = self._pointer(reference.key)
        with self._locked():
            before = digest_at(pointer)
            self._keep(reference.digest, artifact)
            write_atomically(pointer, reference.to_json().encode(), shared=True)
            if before and before != reference.digest:
                self._release(before)
            return sweep_when_due(self.root, self._client, pointer, self._policy)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.root / "lock"
        if lock.is_symlink() or (lock.exists() and not is_regular(lock)):
            raise StoreError(f"cache {self.root}: its lock is no regular file")
        try:
            shared = self.root.stat().st_mode & stat.S_ISGID
            with FileLock(lock, timeout=LOCK_SECONDS, mode=0o660 if shared else 0o644):
                yield
        except Timeout as error:
            raise StoreError(f"cache {self.root} stayed locked for {LOCK_SECONDS:.0f} s") from error
        except NotImplementedError as error:  # what filelock says where a file system has no locks
            raise StoreError(f"cache {self.root} cannot be locked: {error}") from error

    def beside(self, key: str) -> memoryview | None:
        """Return what is kept beside this client's version under a reference's key; None if there is nothing."""
        try:
            return mapped(self._beside(key))
        except OSError:
            return None

    def put_beside(self, key: str, data: Sequence[bytes | memoryview]) -> None:
        """Keep something beside this client's version; nothing is kept if the directory cannot be written.

        What was there before is gone then, too: it says no longer what is so.
        """
        path = self._beside(key)
        try:
            write_atomically(path, data)
        except OSError:
            with suppress(OSError):
                path.unlink()

    def _beside(self, key: str) -> Path:
        return self._pointer(key).with_suffix(".leftover")

    def _keep(self, digest: str, artifact: Artifact) -> None:
        payload = self._payload(digest)
        # One that another user keeps to itself is as good as absent, too.
        if not (is_regular(payload) and os.access(payload, os.R_OK)):
            write_atomically(payload, encode_parts(artifact, codec="full"), shared=True)
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
        if marks(blob) == frozenset():
            shutil.rmtree(blob, ignore_errors=True)

    def _payload(self, digest: str) -> Path:
        return self.root / "blobs" / digest / "payload"

    def _pointer(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
