import math
import sqlite3
from itertools import pairwise

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.codec import decode, encode, inspect
from flserve_app.errors import CodecError, Conflict, CorruptBlob, NotFound, StoreError
from flserve_app.registry import Registry, Retention, Serving, collect, verify
from tests.registry.samples import drifting, unrelated


def publish_all(registry, artifacts, model="m"):
    made = []
    for number, artifact in enumerate(artifacts):
        parent = made[-1].number if made else None
        made.append(registry.publish(model, artifact, parent=parent, round=number, codec="lossless"))
    return made


def blob_files(folder):
    return [path for path in (folder / "blobs").rglob("*") if path.is_file()]


def test_every_version_comes_back_from_a_fresh_process(place, registry):
    artifacts = drifting(11)
    made = publish_all(registry, artifacts)
    with Registry.open(place / "store", create=False) as reopened:
        for version, artifact in zip(made, artifacts, strict=True):
            assert reopened.load(version) == artifact
            assert reopened.load(artifact.digest).digest == artifact.digest
        assert reopened.versions("m") == tuple(made)


def test_history_is_deltas_with_a_keyframe_at_intervals(registry):
    made = publish_all(registry, drifting(9))
    lengths = [len(registry.chain(version.digest)) for version in made]
    assert lengths == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    keyframes = [version.stored for version, length in zip(made, lengths, strict=True) if length == 1]
    deltas = [version.stored for version, length in zip(made, lengths, strict=True) if length > 1]
    assert max(deltas) < min(keyframes) < made[0].nbytes


def test_a_delta_that_saves_nothing_becomes_a_keyframe(registry):
    small, large = unrelated(1, size=10), unrelated(2, size=5000)
    made = publish_all(registry, [small, large])
    assert registry.chain(made[1].digest)[0].base is None


def test_keyframe_every_one_keeps_every_version_whole(place):
    with Registry.open(place, keyframe_every=1) as registry:
        made = publish_all(registry, drifting(3))
        assert [len(registry.chain(version.digest)) for version in made] == [1, 1, 1]
    with pytest.raises(StoreError, match="at least 1, found 0"):
        Registry.open(place, keyframe_every=0)


def publish_with_deltas(registry, artifacts):
    made = publish_all(registry, artifacts[:1])
    for before, artifact in pairwise(artifacts):
        delta = encode(artifact, before, "lossless-small")
        parent = made[-1].number
        made.append(
            registry.publish("m", artifact, parent=parent, round=len(made), codec="lossless-small", delta=delta)
        )
    return made


def test_history_keeps_the_payload_that_was_delivered(place, registry):
    artifacts = drifting(9)
    made = publish_with_deltas(registry, artifacts)
    for before, artifact in pairwise(artifacts):
        kept = registry.payload(artifact.digest, before.digest, "lossless-small")
        assert kept == encode(artifact, before, "lossless-small")
    with Registry.open(place / "store", create=False) as reopened:
        assert [reopened.load(version) for version in made] == artifacts
    # Every fourth has a keyframe beside its delta, so that no chain gets longer.
    assert [len(registry.chain(version.digest)) for version in made] == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert made[4].stored > made[3].stored + made[0].stored // 2
    assert verify(registry).clean


@pytest.mark.parametrize("which", ["elsewhere", "full", "damaged"])
def test_a_delta_that_does_not_lead_there_is_refused(registry, which):
    base, target, other = drifting(3)
    publish_all(registry, [base])
    delta = {
        "elsewhere": encode(other, base),
        "full": encode(target),
        "damaged": encode(target, base)[:-1] + b"x",
    }[which]
    with pytest.raises(CodecError, match=r"delta leads|is damaged"):
        registry.publish("m", target, parent=0, round=1, codec="lossless", delta=delta)
    assert len(registry.versions("m")) == 1


def test_a_delta_from_what_was_collected_is_not_kept(registry):
    artifacts = drifting(3)
    publish_all(registry, artifacts[:2])
    collect(registry, Retention(keep=1))
    delta = encode(artifacts[2], artifacts[0])
    version = registry.publish("m", artifacts[2], parent=0, round=2, codec="lossless", delta=delta)
    assert registry.load(version) == artifacts[2]
    assert registry.payload(artifacts[2].digest, artifacts[0].digest, "lossless") is None


def test_a_rollback_is_a_new_version_without_new_bytes(place, registry):
    good, bad = drifting(2)
    publish_all(registry, [good, bad])
    before = blob_files(place / "store")
    back = registry.publish("m", good, parent=1, round=2, codec="lossless")
    assert (back.number, back.serial, back.digest, back.stored) == (2, 3, good.digest, 0)
    assert blob_files(place / "store") == before
    assert registry.latest("m") == back
    assert registry.resolve("m", "latest").digest == good.digest


def test_what_a_version_takes_to_serve_is_kept(registry):
    serving = Serving(model_id="mlp", arguments={"hidden": 64}, classes=("a", "b"), seed=0)
    made = registry.publish("m", unrelated(1), round=0, codec="grid", metrics={"loss": 2.0}, serving=serving)
    assert registry.resolve("m", "v0") == made
    assert (made.serving, made.codec, made.metrics) == (serving, "grid", {"loss": 2.0})


def test_evaluation_comes_after_publication(registry):
    publish_all(registry, [unrelated(1)])
    registry.add_metrics("m", 0, {"accuracy": 0.5, "loss": math.inf})
    assert registry.latest("m").metrics == {"accuracy": 0.5, "loss": math.inf}


def test_the_history_payload_can_be_delivered(registry):
    artifacts = drifting(2)
    publish_all(registry, artifacts)
    delta = registry.payload(artifacts[1].digest, artifacts[0].digest, "lossless")
    assert decode(delta, artifacts[0]) == artifacts[1]
    keyframe = registry.payload(artifacts[0].digest, None, "lossless")
    assert decode(keyframe) == artifacts[0]
    assert inspect(keyframe).base is None
    assert registry.payload(artifacts[1].digest, None, "lossless") is None
    assert registry.payload(artifacts[1].digest, artifacts[0].digest, "full") is None


def test_loading_needs_only_what_is_not_at_hand(place):
    artifacts = drifting(5)
    with Registry.open(place, keyframe_every=10) as registry:
        publish_all(registry, artifacts)
    with Registry.open(place) as registry:
        assert registry.load(artifacts[2].digest) == artifacts[2]
        for path in blob_files(place):
            if path.name in {edge.blob for edge in registry.chain(artifacts[2].digest)}:
                path.write_bytes(b"damaged")
        assert registry.load(artifacts[4].digest) == artifacts[4]


def test_memory_for_recent_artifacts_is_bounded(place):
    artifacts = drifting(4)
    with Registry.open(place, recent_bytes=artifacts[0].nbytes * 2) as registry:
        publish_all(registry, artifacts)
        for path in blob_files(place):
            path.write_bytes(b"damaged")
        assert registry.load(artifacts[3].digest) == artifacts[3]
        assert registry.load(artifacts[2].digest) == artifacts[2]
        with pytest.raises(CorruptBlob):
            registry.load(artifacts[0].digest)


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_damage_anywhere_in_a_chain_is_found(place, victim):
    artifacts = drifting(3)
    with Registry.open(place) as registry:
        publish_all(registry, artifacts)
        edge = registry.chain(artifacts[2].digest)[victim]
    path = place / "blobs" / edge.blob[:2] / edge.blob
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with Registry.open(place) as registry, pytest.raises(CorruptBlob, match="is damaged"):
        registry.load(artifacts[2].digest)


def test_a_payload_of_another_artifact_is_never_taken(place):
    """A catalog whose edge was redirected to an intact payload of something else."""
    with Registry.open(place) as registry:
        first, second = (
            publish_all(registry, [unrelated(1)])[0],
            registry.publish("n", unrelated(2), round=0, codec="x"),
        )
        edges = [registry.chain(version.digest)[0] for version in (first, second)]
    connection = sqlite3.connect(place / "catalog.sqlite")
    with connection:
        connection.execute("UPDATE edges SET blob = 'x' WHERE blob = ?", (edges[0].blob,))
        connection.execute(
            "UPDATE edges SET blob = ?, nbytes = ? WHERE blob = ?", (edges[0].blob, edges[0].nbytes, edges[1].blob)
        )
    connection.close()
    with Registry.open(place) as registry, pytest.raises(CorruptBlob, match="the catalog expects"):
        registry.load(second)


def test_what_is_not_there_is_not_found(registry):
    publish_all(registry, [unrelated(1)])
    with pytest.raises(NotFound, match="cannot be made from what the store holds"):
        registry.load("0" * 64)
    with pytest.raises(StoreError, match="64 lower-case hex"):
        registry.load("latest")
    with pytest.raises(NotFound, match="no version v7"):
        registry.publish("m", unrelated(2), parent=7, round=1, codec="lossless")
    with pytest.raises(NotFound, match="model 'n' is not in the store; its models: m"):
        registry.resolve("n", "latest")
    assert registry.versions("n") == ()
    assert registry.latest("n") is None
    assert (registry.exists("m"), registry.exists("n")) == (True, False)


def test_versions_are_found_by_every_name(registry):
    made = publish_all(registry, drifting(3))
    registry.move_label("m", "stable", 1, why="passed")
    names = ["latest", "v0", "1", "stable", made[2].digest, made[0].digest[:8]]
    assert [registry.resolve("m", name).number for name in names] == [2, 0, 1, 1, 2, 0]


def test_labels_have_a_history(registry):
    publish_all(registry, drifting(2))
    move = registry.move_label("m", "stable", 0, why="first", who="ann", expect=None)
    with pytest.raises(Conflict, match="stands at v0, expected no version"):
        registry.move_label("m", "stable", 1, why="also first", expect=None)
    registry.move_label("m", "stable", 1, why="better", expect=0)
    assert registry.labels("m") == {"latest": 1, "stable": 1}
    assert registry.label_moves("m", "stable")[0] == move
    assert [one.after for one in registry.label_moves("m")] == [0, 1, 0, 1]


def test_runs_are_recorded(registry):
    registry.start_run("run-1", "m", config={"lr": 0.1})
    assert not registry.exists("m")
    made = registry.publish("m", unrelated(1), round=0, run="run-1", codec="lossless")
    registry.finish_run("run-1")
    (run,) = registry.runs("m")
    assert (made.run, run.state, run.config) == ("run-1", "finished", {"lr": 0.1})
    assert run.started < made.created < run.finished


@pytest.mark.parametrize("artifact", [Artifact({}), Artifact({"empty": np.empty((0, 3)), "scalar": np.array(True)})])
def test_small_artifacts_are_artifacts(place, registry, artifact):
    publish_all(registry, [unrelated(1), artifact, unrelated(2)])
    with Registry.open(place / "store") as reopened:
        assert reopened.load(artifact.digest) == artifact
        assert reopened.load(unrelated(2).digest) == unrelated(2)


def test_models_share_content(place, registry):
    publish_all(registry, [unrelated(1)], "a")
    publish_all(registry, [unrelated(1)], "b")
    assert registry.models() == ("a", "b")
    assert len(blob_files(place / "store")) == 1
