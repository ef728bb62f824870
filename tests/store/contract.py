"""What every BlobStore does: subclass, give a factory, inherit the tests."""

import hashlib
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flserve_app.errors import NotFound, StoreError
from flserve_app.store import BlobStore

ABSENT = hashlib.sha256(b"absent").hexdigest()


class BlobStoreContract(ABC):
    @abstractmethod
    def make(self, path: Path) -> BlobStore: ...

    @pytest.fixture
    def blobs(self, place: Path) -> BlobStore:
        return self.make(place / "blobs")

    def test_the_name_is_the_sha256(self, blobs):
        assert blobs.put(b"content") == hashlib.sha256(b"content").hexdigest()

    @pytest.mark.parametrize("size", [1, 63, 4096, 1_000_003])
    def test_what_was_put_comes_back(self, blobs, size):
        data = hashlib.shake_128(b"seed").digest(size)
        digest = blobs.put(data)
        assert blobs.get(digest) == data
        assert blobs.size(digest) == len(data)

    def test_a_memoryview_is_bytes(self, blobs):
        assert blobs.get(blobs.put(memoryview(b"abcdef")[1:3])) == b"bc"

    def test_an_empty_blob_is_a_blob(self, blobs):
        digest = blobs.put(b"")
        assert blobs.has(digest)
        assert blobs.get(digest) == b""

    def test_putting_twice_is_putting_once(self, blobs):
        assert blobs.put(b"same") == blobs.put(b"same")
        assert len(list(blobs)) == 1

    def test_iterating_gives_every_digest(self, blobs):
        assert list(blobs) == []
        put = {blobs.put(bytes([value])) for value in range(20)}
        assert sorted(blobs) == sorted(put)

    def test_has_tells_presence(self, blobs):
        digest = blobs.put(b"here")
        assert blobs.has(digest)
        assert not blobs.has(ABSENT)

    def test_an_absent_blob_is_not_found(self, blobs):
        with pytest.raises(NotFound, match=ABSENT):
            blobs.get(ABSENT)
        with pytest.raises(NotFound, match=ABSENT):
            blobs.view(ABSENT)
        with pytest.raises(NotFound, match=ABSENT):
            blobs.size(ABSENT)

    @pytest.mark.parametrize("size", [0, 1, 4096, 3_000_003])
    def test_what_was_written_in_parts_and_kept_is_a_blob(self, blobs, size):
        data = hashlib.shake_128(b"parts").digest(size)
        with blobs.writing([data[:100], memoryview(data)[100:]]) as new:
            assert (new.digest, new.nbytes) == (hashlib.sha256(data).hexdigest(), size)
            assert not blobs.has(new.digest)
            new.keep()
        assert blobs.get(new.digest) == data
        assert blobs.view(new.digest) == data
        assert list(blobs) == [new.digest]

    def test_what_was_not_kept_is_nothing(self, blobs):
        with blobs.writing([b"dropped"]) as new:
            pass
        assert not blobs.has(new.digest)
        with pytest.raises(ZeroDivisionError), blobs.writing(bytes([1 // part]) for part in (1, 0)):
            pass
        assert list(blobs) == []

    def test_keeping_what_is_there_is_keeping_it_once(self, blobs):
        digest = blobs.put(b"same")
        with blobs.writing([b"sa", b"me"]) as one, blobs.writing([b"same"]) as other:
            one.keep()
            other.keep()
        assert list(blobs) == [digest]
        assert blobs.get(digest) == b"same"

    def test_a_view_outlives_its_blob(self, blobs):
        data = hashlib.shake_128(b"view").digest(2_000_000)
        view = blobs.view(blobs.put(data))
        blobs.delete(hashlib.sha256(data).hexdigest())
        assert view == data

    def test_a_deleted_blob_is_gone_and_can_return(self, blobs):
        digest = blobs.put(b"twice")
        blobs.delete(digest)
        blobs.delete(digest)
        assert not blobs.has(digest)
        assert list(blobs) == []
        blobs.put(b"twice")
        assert blobs.get(digest) == b"twice"

    def test_more_bytes_than_expected_are_refused(self, blobs):
        digest = blobs.put(b"12345")
        assert blobs.get(digest, max_bytes=5) == b"12345"
        for verb in (blobs.get, blobs.view):
            with pytest.raises(StoreError, match="5 bytes, at most 4"):
                verb(digest, max_bytes=4)

    @pytest.mark.parametrize(
        "digest", ["", "ab", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "a" * 63 + "\n", "a" * 64 + "\n", None]
    )
    def test_what_is_no_digest_is_refused(self, blobs, digest):
        for verb in (blobs.get, blobs.view, blobs.has, blobs.size, blobs.delete):
            with pytest.raises(StoreError, match="64 lower-case hex"):
                verb(digest)

    def test_threads_may_put_the_same_blob(self, blobs):
        data = bytes(100_000)
        with ThreadPoolExecutor(8) as pool:
            digests = set(pool.map(lambda _: blobs.put(data), range(40)))
        assert list(blobs) == list(digests)
        assert blobs.get(digests.pop()) == data

    def test_blobs_are_told_by_the_time_they_were_put(self, blobs):
        digest = blobs.put(b"content")
        now = datetime.now(UTC)
        assert list(blobs.put_before(now + timedelta(seconds=1))) == [digest]
        assert list(blobs.put_before(now - timedelta(minutes=1))) == []

    def test_there_is_nothing_to_tidy(self, blobs):
        digest = blobs.put(b"content")
        later = datetime.now(UTC) + timedelta(seconds=1)
        assert list(blobs.leftovers(later)) == []
        blobs.tidy(later)
        assert list(blobs) == [digest]
