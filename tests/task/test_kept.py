import os

import numpy as np
import pytest

from flserve_app.task.kept import MAX_FILES, kept

FACTS = {"what": "squares", "n": 4}


class Squares:
    def __init__(self, number=4):
        self.calls, self.number = 0, number

    def __call__(self):
        self.calls += 1
        return {"squares": np.arange(self.number) ** 2, "names": np.array([b"a"])}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLSERVE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


def derived():
    squares = Squares()
    found = kept(FACTS, squares)
    assert found["squares"].tolist() == [0, 1, 4, 9]
    return squares.calls


def test_arrays_are_derived_once_and_read_afterwards(folder):
    assert [derived(), derived(), derived()] == [1, 0, 0]
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_other_facts_are_other_arrays(folder):
    kept(FACTS, Squares())
    assert kept({**FACTS, "n": 5}, Squares(5))["squares"].tolist() == [0, 1, 4, 9, 16]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:40], lambda data: data + b"0"]
)
def test_a_damaged_file_is_derived_anew(folder, damage):
    derived()
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert [derived(), derived()] == [1, 0]


def test_every_changed_byte_is_found(folder):
    derived()
    (file,) = folder.iterdir()
    content = file.read_bytes()
    for at in range(0, len(content), 7):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert derived() == 1


def test_objects_are_neither_kept_nor_read(folder):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        kept({}, lambda: {"objects": np.array([{}], dtype=object)})
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_may_write_to_is_not_trusted(folder):
    derived()
    folder.chmod(0o777)
    assert [derived(), derived()] == [1, 1]


def test_a_link_is_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert [derived(), derived()] == [1, 1]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_without_a_place_everything_is_derived(folder):
    folder.parent.touch()
    assert [derived(), derived()] == [1, 1]


def test_a_full_disk_costs_only_time(folder, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert [derived(), derived()] == [1, 1]
    assert list(folder.iterdir()) == []


def test_the_oldest_files_go(folder):
    derived()
    (oldest,) = folder.iterdir()
    os.utime(oldest, (1, 1))
    for number in range(MAX_FILES):
        kept({"number": number}, Squares())
    assert len(list(folder.iterdir())) == MAX_FILES
    assert not oldest.exists()
