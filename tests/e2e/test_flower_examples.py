"""Flower's examples in our sizes, adopted in two lines, in Flower's simulation engine.

There replies come in any order, and plain Flower sums as they come; flserve sums in the order of the partitions. So
what the engine's run ends in is compared with plain Flower over a fleet whose replies come in that order.
"""

import json
import subprocess
import sys

import numpy as np
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
    metrics = [{int(number): record for number, record in part.items()} for part in read(folder, "metrics")]
    with np.load(folder / "arrays.npz") as arrays:
        found = Ended(dict(arrays), metrics, files_of(folder / "files"), [])
    same(found, ended(EXAMPLES[name], tmp_path, adopted=False))
    kinds = [set(plans) for plans in read(folder, "plans")]
    assert kinds[-1]
    assert "plain" not in set().union(*kinds)


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())
