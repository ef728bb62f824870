"""What is no regular file is refused, and never waited for: by the readers themselves, and by all of a client."""

import hashlib
import os
import threading

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.client.files import mapped
from flserve_app.client.held import Held
from flserve_app.client.identity import identity
from flserve_app.client.reference import Reference
from flserve_app.disk.regular import is_regular, read_regular
from flserve_app.errors import StoreError
from tests.client.contexts import context

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs and devices are a matter of POSIX")

MADE = Artifact({"w": np.arange(4, dtype=np.float32)})
KINDS = ["fifo", "link", "dangling", "loop", "folder", "device", "socket"]


def plant(path, kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.unlink()
    target = path.with_name("elsewhere")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        target.write_bytes(b"not yours")
        path.symlink_to(target)
    elif kind == "dangling":
        path.symlink_to(target)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(path.parent)  # its name may be too long for a socket's address
            made.bind(path.name)
            os.chdir(here)
    return target


def within(seconds, work):
    """Run something that must not hang."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, f"still busy after {seconds} s"
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_readers_refuse_what_is_no_regular_file(tmp_path, kind):
    plant(tmp_path / "x", kind)
    assert not is_regular(tmp_path / "x")
    for read in (read_regular, mapped):

        def raises(read=read):
            with pytest.raises(OSError):  # noqa: PT011 its kind is the system's
                read(tmp_path / "x")
            return True

        assert within(5, raises)
    with pytest.raises(OSError, match=r"device|regular"):
        read_regular(type(tmp_path)("/dev/zero"))


def test_a_regular_file_is_read_up_to_a_bound(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="expected at most 4 bytes"):
        read_regular(tmp_path / "x", 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["json", "leftover", "private", "payload", "lock", "identity"])
def test_a_client_goes_on_whatever_lies_in_its_cache(tmp_path, kind, name):
    where = context(**{"cache-dir": str(tmp_path), **({} if name == "identity" else {"partition-id": 0})})
    key = hashlib.sha256(b"m").hexdigest()[:16]
    at = {
        "lock": tmp_path / "lock",
        "identity": tmp_path / "identity",
        "payload": tmp_path / "blobs" / MADE.digest / "payload",
    }
    target = plant(at.get(name, tmp_path / "clients" / "partition-0" / f"{key}.{name}"), kind)
    before = target.read_bytes() if target.exists() else None

    def work():
        held = Held(where)
        held.references(), held.private("m"), held.beside("m", 4)
        held.install(Reference(model="m", version=0, digest=MADE.digest), MADE)
        held.put_beside("m", 4, [b"beside"])
        held.put_private("m", [b"private"])
        return held

    held = within(20, work)
    assert Held(where).load(MADE.digest) == MADE
    assert bytes(held.private("m")) == b"private"
    assert (target.read_bytes() if target.exists() else None) == before, "nothing is written through a link"


@pytest.mark.parametrize("kind", ["fifo", "folder", "link"])
def test_an_identity_that_is_no_regular_file_is_an_error(tmp_path, kind):
    plant(tmp_path / "identity", kind)

    def raises():
        with pytest.raises(StoreError, match="cannot be read or kept"):
            identity({}, tmp_path, 1)
        return True

    assert within(5, raises)


def test_an_identity_that_was_cut_short_is_taken_from_what_it_left(tmp_path):
    made = identity({}, tmp_path, 1)
    (tmp_path / "clients" / made).mkdir(parents=True)
    (tmp_path / "clients" / "partition-3").mkdir()
    (tmp_path / "identity").write_bytes(b"")
    assert identity({}, tmp_path, 2) == made
    (tmp_path / "clients" / "client-other").mkdir()
    (tmp_path / "identity").unlink()
    assert identity({}, tmp_path, 2) not in (made, "client-other"), "which of two it was, nobody knows"
