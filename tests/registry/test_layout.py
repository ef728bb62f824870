import pytest

from flserve_app.errors import NotFound, StoreError
from flserve_app.registry import Registry
from tests.registry.samples import unrelated


def everything_below(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_store_is_three_things(tmp_path):
    with Registry.open(tmp_path / "a" / "store") as registry:
        registry.publish("m", unrelated(1), round=0, codec="lossless")
    assert sorted(path.name for path in (tmp_path / "a" / "store").iterdir()) == ["FORMAT", "blobs", "catalog.sqlite"]
    assert (tmp_path / "a" / "store" / "FORMAT").read_text() == "flserve-store 1\n"


def test_a_missing_store_is_made_only_when_asked(tmp_path):
    with pytest.raises(NotFound, match="there is no store at"):
        Registry.open(tmp_path / "store", create=False)
    assert list(tmp_path.iterdir()) == []
    Registry.open(tmp_path / "store").close()
    Registry.open(str(tmp_path / "store"), create=False).close()


def test_a_store_of_a_newer_format_is_refused_and_untouched(tmp_path):
    with Registry.open(tmp_path) as registry:
        registry.publish("m", unrelated(1), round=0, codec="lossless")
    (tmp_path / "FORMAT").write_text("flserve-store 2\n")
    before = everything_below(tmp_path)
    with pytest.raises(StoreError, match=r"has format 2, this flserve reads up to 1: a newer flserve wrote it"):
        Registry.open(tmp_path)
    assert everything_below(tmp_path) == before


@pytest.mark.parametrize("content", ["", "flserve-store x\n", "flserve-store 1", "other 1\n", "x" * 100])
def test_a_strange_format_file_is_refused(tmp_path, content):
    (tmp_path / "FORMAT").write_text(content)
    with pytest.raises(StoreError, match="is not the format file of a store"):
        Registry.open(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"is not a store and not empty \(it holds 'thesis.tex'\)"):
        Registry.open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_store_whose_making_was_cut_short_is_made_again(tmp_path):
    (tmp_path / ".tmp-0123").write_bytes(b"flser")
    Registry.open(tmp_path).close()
    (tmp_path / "catalog.sqlite").unlink()
    Registry.open(tmp_path).close()


def test_a_lost_catalog_is_not_taken_for_an_empty_one(tmp_path):
    with Registry.open(tmp_path) as registry:
        registry.publish("m", unrelated(1), round=0, codec="lossless")
    (tmp_path / "catalog.sqlite").unlink()
    with pytest.raises(StoreError, match=r"has blobs but no catalog.sqlite"):
        Registry.open(tmp_path)
    assert not (tmp_path / "catalog.sqlite").exists()


@pytest.mark.parametrize("name", ["store", "store/inner"])
def test_a_file_in_the_way_is_one_clear_error(tmp_path, name):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot make the folder"):
        Registry.open(tmp_path / name)
    assert (tmp_path / "store").read_text() == "a file"
