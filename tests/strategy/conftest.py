import gc

import pytest


@pytest.fixture(autouse=True)
def _little_to_collect():
    """Flower collects garbage for every array of QFedAvg and Bulyan: what is there before need not be looked at."""
    gc.freeze()
    yield
    gc.unfreeze()
