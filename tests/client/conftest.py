import pytest


@pytest.fixture(autouse=True)
def _task():
    """Let tests make messages outside a run."""
    from tests.fleet import set_identity

    set_identity()
