"""What a user names to be written: files as a whole and as they were, streams and devices written into."""

import os
import stat
import threading

import pytest

from flserve_app.errors import StoreError
from flserve_app.registry import Registry, output
from flserve_app.registry.output import is_stdout, writing_output

OLD, NEW = b"old", b"something new"


def write(path, data=NEW):
    with writing_output(path) as file:
        file.write(data)


def test_a_file_is_replaced_whole_and_keeps_its_mode(place):
    (place / "x").write_bytes(OLD)
    (place / "x").chmod(0o600)
    write(place / "x")
    assert ((place / "x").read_bytes(), stat.S_IMODE((place / "x").stat().st_mode)) == (NEW, 0o600)
    with pytest.raises(ZeroDivisionError), writing_output(place / "x") as file:
        file.write(OLD * (1 // 0))
    assert ((place / "x").read_bytes(), [one.name for one in place.iterdir()]) == (NEW, ["x"])


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(place, there):
    (place / "far").mkdir()
    if there:
        (place / "far" / "x").write_bytes(OLD)
    (place / "link").symlink_to(place / "far" / "x")
    write(place / "link")
    assert (place / "link").is_symlink()
    assert (place / "far" / "x").read_bytes() == NEW
    assert [one.name for one in (place / "far").iterdir()] == ["x"]


def test_a_fifo_is_written_into(place, monkeypatch):
    os.mkfifo(place / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((place / "pipe").read_bytes()))
    reader.start()
    write(place / "pipe", NEW * 100_000)
    reader.join()
    assert found == [NEW * 100_000]
    assert stat.S_ISFIFO((place / "pipe").lstat().st_mode)
    monkeypatch.setattr(output, "READER_SECONDS", 0.1)
    with pytest.raises(StoreError, match="nobody reads from this FIFO"):
        write(place / "pipe")


def test_a_device_is_written_into(place):
    (place / "null").symlink_to("/dev/null")
    for path in (place / "null", "/dev/null"):
        before = os.stat("/dev/null")
        write(type(place)(path))
        assert os.stat("/dev/null").st_ino == before.st_ino
    assert (place / "null").is_symlink()


def test_open_descriptors_are_written_into(place):
    with (place / "x").open("wb") as file:
        for path in (f"/dev/fd/{file.fileno()}", f"/proc/self/fd/{file.fileno()}"):
            write(type(place)(path))
        (place / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
        write(place / "link")
    assert (place / "x").read_bytes() == NEW * 3
    assert [is_stdout(type(place)(path)) for path in ("-", "/dev/stdout", "/dev/fd/1", "/dev/fd/2", "x")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["FORMAT", "catalog.sqlite", "catalog.sqlite-wal", "blobs/x", "blobs/aa/x"])
def test_the_files_of_a_store_are_not_written(place, name):
    Registry.open(place / "store").close()
    (place / "store" / "blobs" / "aa").mkdir(parents=True)
    (place / "link").symlink_to(place / "store" / name)
    for path in (place / "store" / name, place / "store" / "blobs" / ".." / name, place / "link"):
        with pytest.raises(StoreError, match="is one of the files of the store"):
            write(path)


@pytest.mark.parametrize("name", ["folder", "loop", "nowhere/x", "x" * 300])
def test_what_cannot_be_written_is_one_sentence(place, name):
    (place / "folder").mkdir()
    (place / "loop").symlink_to(place / "loop")
    with pytest.raises(StoreError, match="cannot write"):
        write(place / name)
