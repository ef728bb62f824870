"""Flower's examples in our sizes, adopted in two lines, in Flower's simulation engine.

There replies come in any order, and plain Flower sums as they come; flserve sums in the order of the partitions. So what
the engine's run ends in is compared with plain Flower over a fleet whose replies come in that order.
"""

import pickle
import subprocess
import sys

import pytest

from tests.e2e.flower import PROJECT, environment
from tests.e2e.simulated_example import EXAMPLES
from tests.strategy.examples.example import Ended, ended, files_of, same

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_ends_in_the_simulation_engine_as_it_does_without_us(tmp_path, name):
    folder = tmp_path / "engine"
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.simulated_example", name, str(folder)],
        cwd=PROJECT,
        env=environment(PYTHONPATH=str(PROJECT)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result, rows = pickle.loads((folder / "left.pickle").read_bytes())
    same(Ended(result, files_of(folder / "files"), rows, None), ended(EXAMPLES[name], tmp_path, adopted=False))
    assert rows[-1].plans and not any("plain" in row.plans for row in rows)
