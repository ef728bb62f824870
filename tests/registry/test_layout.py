import pytest

from flserve_app.errors import NotFound, StoreError
from flserve_app.registry import Registry
from tests.registry.samples import unrelated


def everything_below(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_store_is_three_things(place):
    with Registry.open(place / "a" / "store") as registry:
        registry.publish("m", unrelated(1), round=0, codec="lossless")
    assert sorted(path.name for path in (place / "a" / "store").iterdir()) == ["FORMAT", "blobs", "catalog.sqlite"]
    assert (place / "a" / "store" / "FORMAT").read_text() == "flserve-store 1\n"


def test_a_missing_store_is_made_only_when_asked(place):
    with pytest.raises(NotFound, match="there is no store at"):
        Registry.open(place / "store", create=False)
    assert list(place.iterdir()) == []
    Registry.open(place / "store").close()
    Registry.open(str(place / "store"), create=False).close()


def test_a_store_of_a_newer_format_is_refused_and_untouched(place):
    with Registry.open(place) as registry:
        registry.publish("m", unrelated(1), round=0, codec="lossless")
    (place / "FORMAT").write_text("flserve-store 2\n")
    before = everything_below(place)
    with pytest.raises(StoreError, match=r"has format 2, this flserve reads up to 1: a newer flserve wrote it"):
        Registry.open(place)
    assert everything_below(place) == before


@pytest.mark.parametrize("content", ["", "flserve-store x\n", "flserve-store 1", "other 1\n", "x" * 100])
def test_a_strange_format_file_is_refused(place, content):
    (place / "FORMAT").write_text(content)
    with pytest.raises(StoreError, match="is not the format file of a store"):
        Registry.open(place)


def test_a_folder_of_something_else_is_left_alone(place):
    (place / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"is not a store and not empty \(it holds 'thesis.tex'\)"):
        Registry.open(place)
    assert [path.name for path in place.iterdir()] == ["thesis.tex"]


def test_a_store_whose_making_was_cut_short_is_made_again(place):
    (place / ".tmp-0123").write_bytes(b"flser")
    Registry.open(place).close()
    (place / "catalog.sqlite").unlink()
    Registry.open(place).close()


def test_a_lost_catalog_is_not_taken_for_an_empty_one(place):
    with Registry.open(place) as registry:
        registry.publish("m", unrelated(1), round=0, codec="lossless")
    (place / "catalog.sqlite").unlink()
    with pytest.raises(StoreError, match=r"has blobs but no catalog.sqlite"):
        Registry.open(place)
    assert not (place / "catalog.sqlite").exists()


@pytest.mark.parametrize("name", ["store", "store/inner"])
def test_a_file_in_the_way_is_one_clear_error(place, name):
    (place / "store").write_text("a file")
    with pytest.raises(StoreError, match="cannot make the folder"):
        Registry.open(place / name)
    assert (place / "store").read_text() == "a file"
