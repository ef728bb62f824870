import errno
import os

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.client.layout import layout_of
from flserve_app.client.private import Private, read_private
from flserve_app.client.private_files import PrivateFiles
from flserve_app.errors import StoreError


def private(history, value=0.0):
    model = Artifact({"w": np.zeros(3, np.float32), "head": np.full(4, value, np.float32)})
    layout = layout_of(model, ["head"], history * 16)
    return Private(layout=layout, values=layout.parted(model)[1])


@pytest.fixture
def files(tmp_path):
    return PrivateFiles(tmp_path / "clients" / "a", 1 << 20)


def test_each_history_has_its_own(files):
    one, two = private("11", 1), private("22", 2)
    for each in (one, two):
        files.put("m", each.layout.key, each.to_bytes())
    for each in (one, two):
        assert read_private(files.get("m", each.layout.key))[1].values == each.values
    assert files.get("m", private("33").layout.key) is None
    assert files.get("other", one.layout.key) is None
    assert files.get("other") is None


def test_without_a_key_it_is_the_one_that_was_used_last(files, tmp_path):
    one, two = private("11", 1), private("22", 2)
    for at, each in enumerate((one, two)):
        files.put("m", each.layout.key, each.to_bytes())
        for path in tmp_path.rglob(f"*{each.layout.key[:32]}*"):
            os.utime(path, (at, at))
    assert read_private(files.get("m"))[1].values == two.values
    files.get("m", one.layout.key)
    assert read_private(files.get("m"))[1].values == one.values


def test_what_releases_before_kept_is_found_by_its_own_key_only_and_moves(files, tmp_path):
    old, other = private("11", 1), private("22", 2)
    files.put("m", "", old.to_bytes())
    assert files.get("m", other.layout.key) is None
    files.put("m", other.layout.key, other.to_bytes())
    assert read_private(files.get("m", old.layout.key))[1].values == old.values
    files.put("m", old.layout.key, old.to_bytes())
    assert len(list(tmp_path.rglob("*.private"))) == 2


def test_where_there_is_no_room_a_new_history_is_refused_and_none_is_removed(tmp_path):
    files = PrivateFiles(tmp_path, 3 * 4096)
    each = [private(f"{number:02d}", number) for number in range(4)]
    for kept in each[:3]:
        files.put("m", kept.layout.key, kept.to_bytes())
    with pytest.raises(StoreError, match=r"private tensors: 12288 bytes are kept, .* more are over cache-bytes 12288"):
        files.put("m", each[3].layout.key, each[3].to_bytes())
    files.put("m", each[0].layout.key, private("00", 9).to_bytes())
    assert all(files.get("m", kept.layout.key) is not None for kept in each[:3])


def test_what_may_only_be_read_is_read(files, monkeypatch):
    kept = private("11", 1)
    files.put("m", kept.layout.key, kept.to_bytes())

    def refuses(path, *arguments, **keywords):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuses)
    assert read_private(files.get("m", kept.layout.key))[1].values == kept.values
