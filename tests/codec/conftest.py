import os

import pytest

FAST = "4000"


@pytest.fixture(scope="session", params=[pytest.param("fast"), pytest.param("100000", marks=pytest.mark.slow)])
def mutation_count(request) -> int:
    """How many random mutations to try: 100,000 among the slow tests; `FLSERVE_MUTATIONS` for another number."""
    return int(os.environ.get("FLSERVE_MUTATIONS", FAST) if request.param == "fast" else request.param)
