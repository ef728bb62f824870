"""Two processes, and many threads, on one store."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flserve_app.registry import Registry
from tests.registry.samples import drifting, unrelated

PUBLISH = """
import sys
from flserve_app.registry import Registry
from tests.registry.samples import drifting

store, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Registry.open(store) as registry:
    parent = None
    for number, artifact in enumerate(drifting(count, seed=seed)):
        version = registry.publish("m", artifact, parent=parent, round=number, codec="lossless")
        parent = version.number
        print(version.number, version.digest)
"""


def test_processes_publish_on_one_store_and_lose_nothing(place):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    seeds, count = range(3), 8
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(place / "store"), str(seed), str(count)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in seeds
    ]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    expected = dict(line.split() for lines in said for line in lines.splitlines())
    with Registry.open(place / "store", create=False) as registry:
        versions = registry.versions("m")
        assert {str(version.number): version.digest for version in versions} == expected
        assert sorted(version.serial for version in versions) == list(range(1, 25))
        assert registry.labels("m") == {"latest": 23}
        for seed in seeds:
            for artifact in drifting(count, seed=seed):
                assert registry.load(artifact.digest) == artifact


def test_threads_share_a_registry(place):
    with Registry.open(place, recent_bytes=0) as registry:
        registry.publish("m", unrelated(0), round=0, codec="lossless")

        def publish_and_load(seed: int) -> int:
            version = registry.publish("m", unrelated(seed), parent=0, round=1, codec="lossless")
            assert registry.load(version) == unrelated(seed)
            assert registry.load(unrelated(0).digest) == unrelated(0)
            return version.number

        with ThreadPoolExecutor(8) as pool:
            numbers = list(pool.map(publish_and_load, range(24)))
        assert sorted(numbers) == list(range(1, 25))
