"""What one user's client does not see in a cache that a group shares is not taken for nothing."""

import errno
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from flserve_app.client import needed as module
from flserve_app.client.cache import CacheDirectory
from flserve_app.client.policy import SitePolicy
from flserve_app.client.reference import Reference
from tests.client.contexts import artifact

GROUP = 54321
as_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes other users")


def install(directory, made, model="m"):
    return directory.install(Reference(model=model, version=0, digest=made.digest), made)


def blobs(root):
    return {path.name for path in (root / "blobs").iterdir()}


@contextmanager
def user(number, umask=0o002):
    before = os.umask(umask)
    os.setegid(GROUP)
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.umask(before)


@pytest.fixture
def shared():
    root = Path(tempfile.mkdtemp(dir="/tmp")) / "cache"
    root.parent.chmod(0o755)
    root.mkdir()
    os.chown(root, 0, GROUP)
    root.chmod(0o2775)
    yield root
    shutil.rmtree(root.parent)


@as_root
def test_users_of_a_group_install_in_turn_and_keep_what_they_hold(shared):
    users = {50001: CacheDirectory(shared, "a"), 50002: CacheDirectory(shared, "b")}
    for turn in range(3):
        for number, kept in users.items():
            with user(number):
                install(kept, artifact(10 * turn + number))
    for number, kept in users.items():
        with user(number):
            assert kept.load(artifact(20 + number).digest) == artifact(20 + number)
    assert blobs(shared) == {artifact(20 + number).digest for number in users}, "and no more"


@as_root
@pytest.mark.parametrize("hidden", ["reference", "folder"])
def test_what_another_user_keeps_to_itself_stays(shared, hidden):
    a, b = CacheDirectory(shared, "a"), CacheDirectory(shared, "b", SitePolicy(cache_bytes=1))
    with user(50001):
        install(a, artifact(1))
    for path in shared.glob("clients/a" if hidden == "folder" else "clients/a/*.json"):
        path.chmod(0o700 if hidden == "folder" else 0o600)
    with user(50002):
        install(b, artifact(2))
        install(b, artifact(3), "other")
    assert blobs(shared) == {artifact(1).digest, artifact(3).digest}, "its own make room all the same"
    with user(50001):
        assert a.load(artifact(1).digest) == artifact(1)


@pytest.mark.parametrize("answer", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_reference_that_cannot_be_read_may_name_anything(tmp_path, monkeypatch, answer):
    a, b = CacheDirectory(tmp_path, "a"), CacheDirectory(tmp_path, "b")
    install(a, artifact(1))
    stray = tmp_path / "blobs" / artifact(9).digest
    stray.mkdir()
    read = module.read_regular

    def closed(path):
        if path.parent.name == "a":
            raise OSError(answer, os.strerror(answer))
        return read(path)

    monkeypatch.setattr(module, "read_regular", closed)
    install(b, artifact(2))
    install(b, artifact(3))
    assert blobs(tmp_path) == {artifact(1).digest, artifact(3).digest}, "what nobody marked goes"


@pytest.mark.parametrize("text", [b"{}", b"\xff", b""])
def test_a_file_that_is_no_reference_names_nothing(tmp_path, text):
    a, b = CacheDirectory(tmp_path, "a"), CacheDirectory(tmp_path, "b")
    install(a, artifact(1))
    next((tmp_path / "clients" / "a").glob("*.json")).write_bytes(text)
    install(b, artifact(2))
    assert blobs(tmp_path) == {artifact(2).digest}
