from datetime import UTC, datetime, timedelta

import pytest

from flserve_app.registry import Registry


class Clock:
    """A clock that a second passes on at every look."""

    def __init__(self):
        self.now = datetime(2026, 11, 23, 12, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def place(tmp_path):
    """A folder with nothing in it, whatever else a test gets."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(place, clock):
    with Registry.open(place / "store", clock=clock, keyframe_every=4) as opened:
        yield opened
