"""What a process remembers of the files it verified."""

import numpy as np

from flserve_app.artifact import Artifact
from flserve_app.client.verified import VerifiedArtifacts


def artifact(seed, size=100):
    return Artifact({"w": np.full(size, seed, dtype=np.uint8)})


def test_it_remembers_a_file_until_the_file_changes(tmp_path):
    kept = VerifiedArtifacts(1000)
    path = tmp_path / "payload"
    path.write_bytes(b"one")
    one = artifact(1)
    kept.put(path, one)
    assert kept.get(path) is one
    path.write_bytes(b"other")
    assert kept.get(path) is None
    assert kept.get(tmp_path / "never") is None


def test_a_file_that_is_gone_counts_for_nothing(tmp_path):
    kept = VerifiedArtifacts(1000)
    path = tmp_path / "payload"
    path.write_bytes(b"one")
    kept.put(path, artifact(1))
    path.unlink()
    assert kept.get(path) is None
    kept.put(path, artifact(1))
    assert kept.get(path) is None


def test_it_keeps_those_used_last_within_its_bound(tmp_path):
    kept = VerifiedArtifacts(250)
    paths = [tmp_path / str(number) for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(number + 1))
        kept.put(path, artifact(number))
        kept.get(paths[0])
    assert [kept.get(path) is not None for path in paths] == [True, False, True]
