import pytest

from flserve_app.errors import StoreError
from flserve_app.store import make_folder, write_file


def test_a_file_is_replaced_whole(place):
    path = place / "name"
    write_file(path, b"old, and longer")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(place.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_content(place):
    path = place / "name"
    path.mkdir()
    (path / "inside").write_bytes(b"kept")
    with pytest.raises(StoreError, match="cannot write"):
        write_file(path, b"new")
    assert [entry.name for entry in place.iterdir()] == ["name"]
    assert (path / "inside").read_bytes() == b"kept"


def test_a_missing_folder_is_an_error_of_ours(place):
    with pytest.raises(StoreError, match="No such file or directory"):
        write_file(place / "no" / "name", b"")


def test_folders_are_made_with_those_above_and_may_exist(place):
    make_folder(place / "a" / "b" / "c")
    make_folder(place / "a" / "b" / "c")
    assert (place / "a" / "b" / "c").is_dir()


def test_a_file_where_a_folder_should_be_is_an_error(place):
    (place / "a").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot make the folder"):
        make_folder(place / "a" / "b")
    with pytest.raises(StoreError, match="cannot make the folder"):
        make_folder(place / "a")
