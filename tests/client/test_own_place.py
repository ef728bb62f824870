"""Where simulated clients keep what is their own: said on this machine alone, and believed of this user alone."""

import os
import stat

import pytest

from flserve_app.client.cache_root import cache_root
from flserve_app.client.own_place import announce, announced, beside, place_of_run

PARTITION = {"partition-id": 1}


def test_what_is_announced_is_found_by_the_clients_of_that_run_alone(tmp_path):
    folder = beside(tmp_path / "store")
    announce(5, folder)
    assert folder == tmp_path / "store.clients"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cache_root(PARTITION, 5, 2).own == folder
    assert cache_root(PARTITION, 6, 2).own is None


def test_who_has_a_cache_directory_keeps_all_in_it(tmp_path, monkeypatch):
    announce(5, tmp_path / "own")
    assert cache_root({**PARTITION, "cache-dir": str(tmp_path / "c")}, 5, 2).own is None
    monkeypatch.setenv("FLSERVE_CACHE_DIR", str(tmp_path / "e"))
    assert cache_root(PARTITION, 5, 2).own is None


@pytest.mark.parametrize("kind", ["link", "open folder", "nothing", "relative"])
def test_what_cannot_be_trusted_is_as_good_as_absent(tmp_path, kind):
    folder = tmp_path / "own"
    announce(5, folder)
    said = next(path for path in place_of_run(5).iterdir())
    if kind == "link":
        (tmp_path / "other").write_bytes(os.fsencode(folder))
        said.unlink()
        said.symlink_to(tmp_path / "other")
    elif kind == "open folder":
        folder.chmod(0o777)
    elif kind == "nothing":
        folder.rmdir()
    else:
        said.write_bytes(b"own")
    assert announced(place_of_run(5)) is None


def test_a_folder_of_others_is_not_announced(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError):
        announce(5, folder)
