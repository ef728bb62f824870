import errno
import os
import stat

import pytest

from flserve_app.client.files import make_private, mapped, write_atomically
from flserve_app.client.identity import identity


def test_the_content_is_replaced_and_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_content_may_come_in_parts_and_is_mapped_as_it_is(tmp_path):
    write_atomically(tmp_path / "file", iter([b"one", memoryview(b"two"), b""]))
    assert bytes(mapped(tmp_path / "file")) == b"onetwo"
    write_atomically(tmp_path / "empty", iter(()))
    assert bytes(mapped(tmp_path / "empty")) == b""


def test_mapped_content_stays_when_its_file_is_replaced(tmp_path):
    write_atomically(tmp_path / "file", b"old" * 5000)
    seen = mapped(tmp_path / "file")
    write_atomically(tmp_path / "file", b"new")
    assert bytes(seen) == b"old" * 5000


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "full").touch()
    with pytest.raises(OSError, match=r"Is a directory|not empty"):
        write_atomically(tmp_path / "file", b"one")
    assert os.listdir(tmp_path) == ["file"]


def test_a_private_folder_is_this_users_alone(tmp_path):
    make_private(tmp_path / "own")
    make_private(tmp_path / "own")
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "own")
    for name in ("open", "link"):
        with pytest.raises(PermissionError, match=f"{name} is a link, belongs to somebody else or may be written"):
            make_private(tmp_path / name)


def test_what_is_forced_is_forced_with_the_folders_that_name_it(tmp_path, monkeypatch):
    forced, fsync = [], os.fsync

    def noted(descriptor):
        forced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_atomically(tmp_path / "a" / "b" / "file", b"one")
    assert forced == []
    write_atomically(tmp_path / "c" / "d" / "file", b"one", forced=True)
    folders = [str(tmp_path / "c" / "d"), str(tmp_path / "c"), str(tmp_path)]
    assert forced[0].startswith(f"{tmp_path}/c/d/.new-")
    assert forced[1:] == folders
    forced.clear()
    identity({}, tmp_path / "e", 1)
    assert forced[1:] == [str(tmp_path / "e"), str(tmp_path)]


def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    def fails(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        write_atomically(tmp_path / "file", b"one", forced=True)
    assert os.listdir(tmp_path) == []


def test_files_are_the_users_own_but_where_a_folder_hands_its_group_on(tmp_path):
    tmp_path.chmod(0o2775)
    for name, shared, expected in (("own", False, 0o600), ("shared", True, 0o640)):
        write_atomically(tmp_path / name, b"one", shared=shared)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected
    tmp_path.chmod(0o755)
    write_atomically(tmp_path / "shared", b"one", shared=True)
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o600
