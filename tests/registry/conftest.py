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
def clock():
    return Clock()


@pytest.fixture
def registry(tmp_path, clock):
    with Registry.open(tmp_path / "store", clock=clock, keyframe_every=4) as opened:
        yield opened
