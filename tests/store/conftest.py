import pytest


@pytest.fixture
def place(tmp_path):
    """A folder with nothing in it, whatever else a test gets."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"
