"""Two processes, and many threads, on one store."""

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from flserve_app.registry import Registry, Retention, collect, verify
from tests.registry.samples import drifting, unrelated

PUBLISH = """
import sys
from flserve_app.registry import Registry
from tests.registry.samples import drifting

store, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Registry.open(store) as registry:
    parent = None
    for number, artifact in enumerate(drifting(count, seed=seed)):
        state = f"{seed} {number}".encode()
        version = registry.publish(
            "m", artifact, parent=parent, round=number, codec="lossless", state=state, state_kind="test"
        )
        parent = version.number
        print(version.number, version.digest, flush=True)
"""


def publisher(store: Path, seed: int, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PUBLISH, str(store), str(seed), str(count)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_publish_on_one_store_and_lose_nothing(place):
    seeds, count = range(3), 8
    running = [publisher(place / "store", seed, count) for seed in seeds]
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


@pytest.mark.slow
def test_processes_publish_while_another_collects(place):
    """Everything that is not kept goes at once, young blobs too; nobody notices but in what is kept."""
    seeds, count = range(2), 10
    with Registry.open(place / "store") as registry:
        running = [publisher(place / "store", seed, count) for seed in seeds]
        turns = 0
        while any(process.poll() is None for process in running):
            collect(registry, Retention(keep=2), grace=timedelta(0))
            turns += 1
            time.sleep(0.02)  # a collector without a pause is always faster than a publisher
        said = [process.communicate()[0] for process in running]
        assert [process.returncode for process in running] == [0, 0]
        assert sum(len(lines.splitlines()) for lines in said) == 20
        assert turns > 3
        assert verify(registry).clean
        kept = [version.number for version in registry.versions("m") if version.collected is None]
        assert {18, 19} <= set(kept)
        collect(registry, Retention(keep=2), grace=timedelta(0))
    with Registry.open(place / "store", create=False) as reopened:
        versions = reopened.versions("m")
        made = {artifact.digest: artifact for seed in seeds for artifact in drifting(count, seed=seed)}
        assert [reopened.load(version) for version in versions[-2:]] == [made[one.digest] for one in versions[-2:]]
        assert [version.collected is None for version in versions] == [False] * 18 + [True] * 2
        assert all(reopened.load_state("m", number) for number in (18, 19))
        assert verify(reopened).orphans == ()


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


@pytest.mark.slow
def test_killed_publishers_lose_nothing_they_spoke_of(place):
    """Two at a time, killed with -9 at a random moment; what was printed was committed before."""
    stream, said = random.Random(7), {}
    for turn in range(12):
        running = [publisher(place, 2 * turn + one, 200) for one in range(2)]
        first = [process.stdout.readline() for process in running]
        time.sleep(stream.uniform(0, 0.2))
        for process in running:
            process.kill()
        rest = [process.communicate()[0] for process in running]
        for line in "".join([*first, *rest]).splitlines(keepends=True):
            if line.endswith("\n"):
                number, digest = line.split()
                assert said.setdefault(number, digest) == digest
    with Registry.open(place, create=False) as registry:
        versions = registry.versions("m")
        assert [version.number for version in versions] == list(range(len(versions)))
        assert registry.labels("m") == {"latest": versions[-1].number}
        assert said.items() <= {str(version.number): version.digest for version in versions}.items()
        assert len(said) > 24
        for version in versions:
            assert registry.load(version).digest == version.digest
