"""What file systems without fsync answer is no failure, whoever writes; what a failing disk answers is one."""

import errno
import os
import stat

import pytest

from flserve_app.client.files import write_atomically
from flserve_app.disk.durable import force, force_folder
from flserve_app.store.files import make_folder, write_file

NO_SUCH_THING = ["EINVAL", "EBADF", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOTTY", "EISDIR"]
WRITERS = [lambda path: write_atomically(path, b"one", forced=True), lambda path: write_file(path, b"one")]


def answers(monkeypatch, number, *, folders_only=True):
    def refuses(descriptor):
        if not folders_only or stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuses)


@pytest.mark.parametrize("write", WRITERS, ids=["client", "store"])
@pytest.mark.parametrize("answer", NO_SUCH_THING)
def test_a_file_system_that_forces_no_folders_is_good_enough(tmp_path, monkeypatch, answer, write):
    answers(monkeypatch, getattr(errno, answer))
    make_folder(tmp_path / "a")
    write(tmp_path / "a" / "file")
    assert (tmp_path / "a" / "file").read_bytes() == b"one"


@pytest.mark.parametrize("answer", ["EIO", "ENOSPC", "EDQUOT", "EROFS"])
def test_a_disk_that_fails_is_an_error(tmp_path, monkeypatch, answer):
    answers(monkeypatch, getattr(errno, answer), folders_only=False)
    with pytest.raises(OSError, match=os.strerror(getattr(errno, answer))):
        force_folder(tmp_path)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match=os.strerror(getattr(errno, answer))):
        force(file.fileno())


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        force_folder(tmp_path / "none")
