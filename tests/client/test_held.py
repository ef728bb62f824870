import os

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord

from flserve_app.artifact import Artifact
from flserve_app.client import held as module
from flserve_app.client.held import STATE_BYTES, Held
from flserve_app.client.own_place import forget_old_runs
from flserve_app.client.reference import Reference
from flserve_app.client.wire import payload_array
from flserve_app.codec import encode
from tests.client.contexts import artifact, context


def install(held, made, model="m", version=0):
    reference = Reference(model=model, version=version, digest=made.digest)
    held.install(reference, made)
    return reference


def large(seed=0):
    return Artifact({"w": np.random.default_rng(seed).normal(size=STATE_BYTES // 8 + 1)})


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


def test_a_small_model_of_a_simulated_node_lives_in_its_state():
    where, made = context(**{"partition-id": 1}), artifact()
    held = Held(where)
    assert held.references() == ()
    reference = install(held, made)
    again = Held(context(state=where.state, **{"partition-id": 1}))
    assert again.references() == (reference,)
    assert again.digests() == (made.digest,)
    assert again.load(made.digest) == made
    assert Held(context(**{"partition-id": 1})).references() == ()


def test_a_large_model_lives_on_disk_and_the_state_refers_to_it():
    where, made = context(**{"partition-id": 1}), large()
    install(Held(where), made)
    assert len(where.state["flserve.arrays"]) == 0
    assert Held(where).load(made.digest) == made
    neighbour = Held(context(**{"partition-id": 2}))
    assert neighbour.load(made.digest) is None
    assert neighbour.digests() == ()


def test_a_cache_directory_outlives_the_run(root):
    made = artifact()
    reference = install(Held(context(run_id=1, **{"partition-id": 1, "cache-dir": str(root)})), made)
    later = Held(context(run_id=2, node_id=77, **{"partition-id": 1, "cache-dir": str(root)}))
    assert later.references() == (reference,)
    assert later.load(made.digest) == made
    assert Held(context(run_id=2, **{"partition-id": 2, "cache-dir": str(root)})).references() == ()


def test_private_tensors_are_kept_where_versions_are(root):
    here, there = context(**{"partition-id": 1}), context(**{"partition-id": 1, "cache-dir": str(root)})
    for where in (here, there):
        assert Held(where).private("m") is None
        Held(where).put_private("m", [b"one", b"two"])
        Held(where).put_private("other", [b"three"])
        assert [bytes(Held(where).private(model)) for model in ("m", "other")] == [b"onetwo", b"three"]
    assert len(there.state["flserve.private"]) == 0
    assert Held(context(run_id=9, **{"partition-id": 1, "cache-dir": str(root)})).private("m") == b"onetwo"
    assert Held(context(**{"partition-id": 2, "cache-dir": str(root)})).private("m") is None


def test_private_tensors_that_grow_move_to_the_disk():
    where = context(**{"partition-id": 1})
    Held(where).put_private("m", [b"small"])
    Held(where).put_private("m", [bytes(STATE_BYTES), b"!"])
    assert len(where.state["flserve.private"]) == 0
    assert bytes(Held(where).private("m")) == bytes(STATE_BYTES) + b"!"
    Held(where).put_private("m", [b"small"])
    assert bytes(Held(where).private("m")) == b"small"


def test_a_new_version_takes_the_place_of_the_old():
    where = context(**{"partition-id": 1})
    held, old, new = Held(where), artifact(0), artifact(1)
    install(held, old)
    install(held, new, version=1)
    assert held.digests() == (new.digest,)
    assert held.load(old.digest) is None
    assert list(where.state["flserve.arrays"]) == [new.digest]


def test_models_of_several_names_are_held_side_by_side():
    held = Held(context(**{"partition-id": 1}))
    one, two = artifact(0), artifact(1)
    install(held, one, "a")
    install(held, two, "b")
    install(held, two, "c")
    assert held.digests() == (one.digest, two.digest)
    assert held.load(one.digest) == one


def test_a_model_that_grows_moves_from_the_state_to_the_disk():
    where = context(**{"partition-id": 1})
    held = Held(where)
    install(held, artifact())
    install(held, large())
    assert held.load(large().digest) == large()
    assert len(where.state["flserve.arrays"]) == 0


@pytest.mark.parametrize(
    "state",
    [
        {"flserve.held": ConfigRecord({"m": "{}"})},
        {"flserve.held": ConfigRecord({"m": 3})},
        {"flserve.held": ArrayRecord()},
        {"flserve.arrays": ConfigRecord({"m": 1})},
    ],
)
def test_a_state_that_is_not_ours_holds_nothing_and_is_written_over(state):
    where = context(**{"partition-id": 1})
    where.state.update(state)
    held = Held(where)
    assert held.references() == ()
    assert held.load("ab" * 32) is None
    install(held, artifact())
    assert held.load(artifact().digest) == artifact()


@pytest.mark.parametrize("data", [b"", b"noise", encode(artifact(5), codec="full")])
def test_damaged_arrays_in_the_state_are_not_held(data):
    where = context(**{"partition-id": 1})
    held, made = Held(where), artifact()
    install(held, made)
    where.state["flserve.arrays"] = ArrayRecord({made.digest: payload_array(data)})
    assert held.load(made.digest) is None


def test_where_no_directory_can_be_written_the_state_keeps_the_model(tmp_path, caplog):
    (tmp_path / "file").touch()
    where = context(**{"partition-id": 1, "cache-dir": str(tmp_path / "file" / "cache")})
    held, made = Held(where), large()
    install(held, made)
    assert Held(where).load(made.digest) == made
    assert "keeps its version in memory, the cache cannot be written" in caplog.text
    assert "partition-1" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="owners of directories are a matter of POSIX")
def test_a_temporary_directory_of_another_user_is_not_used(monkeypatch, caplog):
    where = context(**{"partition-id": 1})
    directory, _ = module.cache_directory(where.node_config, where.run_id, where.node_id)
    assert f"flserve-{os.getuid()}" in str(directory)
    install(Held(where), large())
    assert directory.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    (directory.parent.parent / "flserve-12345").mkdir(mode=0o700)
    install(Held(context(**{"partition-id": 1})), large())
    assert "belongs to somebody else" in caplog.text


def test_directories_of_runs_long_ago_are_removed_when_a_new_run_makes_its_own(tmp_path):
    old, recent = tmp_path / "run-1", tmp_path / "run-2"
    for folder in (old, recent):
        (folder / "blobs").mkdir(parents=True)
    for path in (old / "blobs", old):
        os.utime(path, (0, 0))
    forget_old_runs(tmp_path / "run-3")
    assert not old.exists()
    assert recent.exists()
    for path in (recent / "blobs", recent):
        os.utime(path, (0, 0))
    (tmp_path / "run-3").mkdir()
    forget_old_runs(tmp_path / "run-3")
    assert recent.exists()
