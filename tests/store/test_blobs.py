import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flserve_app.errors import CorruptBlob, NotFound, StoreError
from flserve_app.store import DirBlobs, MemoryBlobs
from tests.store.contract import BlobStoreContract


class TestMemoryBlobs(BlobStoreContract):
    def make(self, path):
        return MemoryBlobs()


class TestDirBlobs(BlobStoreContract):
    def make(self, path):
        return DirBlobs(path)


def file_of(folder: Path, digest: str) -> Path:
    return folder / digest[:2] / digest


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_blob_is_a_plain_file_named_by_its_digest(place):
    digest = DirBlobs(place).put(b"content")
    assert [path.relative_to(place).as_posix() for path in files_below(place)] == [f"{digest[:2]}/{digest}"]


@pytest.mark.parametrize("damage", [b"", b"contenT", b"content+"])
def test_a_damaged_blob_is_never_returned(place, damage):
    digest = DirBlobs(place).put(b"content")
    file_of(place, digest).write_bytes(damage)
    with pytest.raises(CorruptBlob, match=digest):
        DirBlobs(place).get(digest)


@pytest.mark.parametrize("size", [1000, 2_000_000])
def test_a_damaged_blob_is_never_viewed(place, size):
    digest = DirBlobs(place).put(bytes(size))
    file_of(place, digest).write_bytes(bytes(size - 1) + b"x")
    with pytest.raises(CorruptBlob, match=digest):
        DirBlobs(place).view(digest)


def test_keeping_heals_a_damaged_blob(place):
    blobs = DirBlobs(place)
    digest = blobs.put(b"content")
    file_of(place, digest).write_bytes(b"")
    with blobs.writing([b"content"]) as new:
        new.keep()
    assert blobs.get(digest) == b"content"


@pytest.mark.parametrize("damage", [b"", b"contenT", b"content+"])
def test_putting_again_heals_a_damaged_blob(place, damage):
    blobs = DirBlobs(place)
    digest = blobs.put(b"content")
    file_of(place, digest).write_bytes(damage)
    blobs.put(b"content")
    assert blobs.get(digest) == b"content"


def test_what_a_crash_left_behind_is_skipped(place):
    blobs = DirBlobs(place)
    digest = blobs.put(b"content")
    (place / digest[:2] / ".tmp-0123").write_bytes(b"half")
    (place / ".tmp-4567").write_bytes(b"half")
    (place / digest[:2] / "README").write_bytes(b"strange")
    assert list(blobs) == [digest]
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert len(list(blobs.leftovers(later))) == 2
    blobs.tidy(later)
    assert sorted(path.name for path in files_below(place)) == sorted([digest, "README"])


def test_a_full_disk_is_one_clear_error_and_no_half_blob(place):
    blobs = DirBlobs(place)
    kept = blobs.put(b"small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot write .* \(100000 bytes\): File too large"):
            blobs.put(bytes(100_000))
        parts = (bytes(1000) for _ in range(100))
        with pytest.raises(StoreError, match=r"cannot write a blob in .*: File too large"), blobs.writing(parts) as new:
            new.keep()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(blobs) == [kept]
    assert len(files_below(place)) == 1


def test_a_file_in_the_way_is_one_clear_error(place):
    (place / "blobs").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot make the folder"):
        DirBlobs(place / "blobs").put(b"content")


def test_a_folder_in_the_place_of_a_blob_is_an_error(place):
    blobs = DirBlobs(place)
    digest = blobs.put(b"content")
    file_of(place, digest).unlink()
    file_of(place, digest).mkdir()
    with pytest.raises(StoreError, match="cannot read blob"):
        blobs.get(digest)
    with pytest.raises(StoreError, match="cannot remove"):
        blobs.delete(digest)


class BlobsAgainstDict(RuleBasedStateMachine):
    """DirBlobs, reopened at will, and a dict do the same."""

    digests = Bundle("digests")

    def __init__(self):
        super().__init__()
        self.folder = Path(self.make_folder())
        self.blobs = DirBlobs(self.folder)
        self.model: dict[str, bytes] = {}

    @rule(target=digests, data=st.binary(max_size=8))
    def put(self, data):
        digest = self.blobs.put(data)
        self.model[digest] = data
        return digest

    @rule(digest=digests)
    def delete(self, digest):
        self.blobs.delete(digest)
        self.model.pop(digest, None)

    @rule(digest=digests)
    def get(self, digest):
        if digest in self.model:
            assert self.blobs.get(digest) == self.model[digest]
        else:
            with pytest.raises(NotFound):
                self.blobs.get(digest)

    @rule()
    def reopen(self):
        self.blobs = DirBlobs(self.folder)

    @invariant()
    def same_digests(self):
        assert set(self.blobs) == set(self.model)


def test_dir_blobs_behave_like_a_dict(tmp_path_factory):
    class Machine(BlobsAgainstDict):
        def make_folder(self):
            return tmp_path_factory.mktemp("blobs")

    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=15, deadline=None))
