import gc

import pytest


@pytest.fixture(autouse=True)
def _little_grace(monkeypatch):
    """Clients in memory answer at once or never."""
    monkeypatch.setattr("flserve_app.strategy.roster.GRACE_SECONDS", 0.05)
    monkeypatch.setattr("flserve_app.strategy.roster.START_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _little_to_collect():
    """Flower collects garbage for every array of QFedAvg and Bulyan: what is there before need not be looked at."""
    gc.freeze()
    yield
    gc.unfreeze()
