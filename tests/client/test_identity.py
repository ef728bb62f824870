import re

import pytest

from flserve_app.client.held import Held, cache_directory
from flserve_app.client.identity import identity
from flserve_app.errors import StoreError
from tests.client.contexts import context


def test_a_partition_names_its_client():
    assert identity({"partition-id": 3}, None, 99) == "partition-3"
    assert identity({"partition-id": "site-a"}, None, 99) == "partition-site-a"


@pytest.mark.parametrize("partition", ["../up", "a/b", "", "x" * 119, "-a", "a b", "\n"])
def test_a_partition_that_is_no_name_is_not_used(partition, tmp_path):
    assert identity({"partition-id": partition}, None, 99) == "node-99"
    assert re.fullmatch(r"client-[0-9a-f]{16}", identity({"partition-id": partition}, tmp_path, 99))


def test_an_id_is_made_once_and_kept(tmp_path):
    made = identity({}, tmp_path / "new", 1)
    assert re.fullmatch(r"client-[0-9a-f]{16}", made)
    assert identity({}, tmp_path / "new", 2) == made
    assert identity({}, tmp_path / "other", 1) != made


@pytest.mark.parametrize("content", [b"", b"\n", b"../../etc", b"a\nb", b"x" * 129])
def test_a_kept_id_that_is_no_name_is_made_anew(tmp_path, content):
    (tmp_path / "identity").write_bytes(content)
    made = identity({}, tmp_path, 1)
    assert made.startswith("client-")
    assert (tmp_path / "identity").read_text() == made


def test_a_kept_id_may_be_given_by_hand(tmp_path):
    (tmp_path / "identity").write_text("hospital-7\n")
    assert identity({}, tmp_path, 1) == "hospital-7"


def test_an_id_that_cannot_be_kept_is_an_error_with_its_place(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"client identity at {tmp_path}/file/identity cannot be read or kept"):
        identity({}, tmp_path / "file", 1)
    (tmp_path / "identity").write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="cannot be read or kept"):
        identity({}, tmp_path, 1)


def test_without_a_place_to_keep_it_a_client_goes_by_its_node(tmp_path, caplog):
    (tmp_path / "file").touch()
    held = Held(context(node_id=42, **{"cache-dir": str(tmp_path / "file" / "cache")}))
    assert held.identity == "node-42"
    assert "cannot be read or kept" in caplog.text


def test_two_clients_of_one_directory_are_one_client(tmp_path):
    one, two = (Held(context(node_id=node, **{"cache-dir": str(tmp_path)})) for node in (1, 2))
    assert one.identity == two.identity


def test_where_a_node_keeps_its_cache(tmp_path, monkeypatch):
    assert cache_directory({"cache-dir": str(tmp_path)}, 1, 2) == (tmp_path, True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory({}, 1, 2) == (tmp_path / "xdg" / "flserve" / "node-2", True)
    path, lasting = cache_directory({"partition-id": 1}, 8, 2)
    assert path.name == "run-8"
    assert not lasting
    monkeypatch.setenv("FLSERVE_CACHE_DIR", str(tmp_path / "env"))
    assert cache_directory({"partition-id": 1}, 8, 2) == (tmp_path / "env", True)
    assert cache_directory({"cache-dir": str(tmp_path)}, 1, 2) == (tmp_path, True)
