import os

import pytest


@pytest.fixture(scope="session")
def mutation_count() -> int:
    """How many random mutations to try; `FLSERVE_MUTATIONS=100000` for a long run."""
    return int(os.environ.get("FLSERVE_MUTATIONS", "4000"))
