"""The artifact: what it accepts, that it never changes, and what its identity depends on."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flserve_app import Artifact
from flserve_app.artifact import DTYPES, TensorSpec, byte_view
from flserve_app.artifact.digest import CHUNK_BYTES, tree_digests
from flserve_app.artifact.manifest import MAX_NAME_BYTES, MAX_RANK
from flserve_app.errors import ArtifactError

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_it_is_an_ordered_read_only_mapping():
    artifact = Artifact({"b": WEIGHT, "a": np.int64(3)})
    assert list(artifact) == ["b", "a"]
    assert artifact["a"].shape == ()
    assert artifact.nbytes == 24 + 8
    with pytest.raises(ValueError, match="read-only"):
        artifact["b"][0, 0] = 1


def test_later_writes_to_the_input_do_not_reach_it():
    source = WEIGHT.copy()
    view = source[:]
    view.flags.writeable = False
    artifact, viewed = Artifact({"w": source}), Artifact({"w": view})
    digest = artifact.digest
    source[:] = 9
    assert artifact["w"][0, 1] == 1
    assert viewed["w"][0, 1] == 1
    assert Artifact({"w": artifact["w"]}).digest == digest == viewed.digest


def test_immutable_memory_is_not_copied():
    array = np.frombuffer(bytes(16), dtype=np.float32)
    assert Artifact({"w": array})["w"] is array


@pytest.mark.parametrize(
    "other",
    [
        {"v": WEIGHT},
        {"w": WEIGHT.reshape(3, 2)},
        {"w": WEIGHT.astype(np.float64)},
        {"w": WEIGHT.view(np.int32)},
        {"w": np.where(WEIGHT == 0, np.float32(-0.0), WEIGHT)},
        {"w": WEIGHT, "x": np.zeros(0)},
    ],
    ids=["name", "shape", "dtype", "kind", "sign of zero", "one more"],
)
def test_the_digest_depends_on_names_shapes_dtypes_and_every_bit(other):
    assert Artifact(other).digest != Artifact({"w": WEIGHT}).digest


def test_the_digest_depends_on_the_order():
    assert Artifact({"a": WEIGHT, "b": WEIGHT}).digest != Artifact({"b": WEIGHT, "a": WEIGHT}).digest


def test_the_digest_depends_on_the_logical_dtype():
    bits = np.arange(4, dtype=np.uint16)
    brain = Artifact({"w": bits}, dtypes={"w": "bfloat16"})
    assert brain.digest != Artifact({"w": bits}).digest
    assert brain.specs["w"] == TensorSpec("w", "bfloat16", (4,))


def test_layout_and_byte_order_do_not_matter():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    plain = Artifact({"w": np.ascontiguousarray(wide[:, ::2])})
    for same in (wide[:, ::2], np.asfortranarray(wide[:, ::2]), wide[:, ::2].astype(">f4")):
        assert Artifact({"w": same}).digest == plain.digest


def test_the_digest_is_the_one_the_documentation_describes():
    data = bytes(range(256)) * 5000
    array = np.frombuffer(data, dtype=np.uint8)
    leaves = [hashlib.sha256(data[at : at + CHUNK_BYTES]).digest() for at in range(0, len(data), CHUNK_BYTES)]
    tensor = hashlib.sha256(b"".join(leaves)).hexdigest()
    manifest = json.dumps({"format": 1, "tensors": [["w", "uint8", [len(data)], tensor]]}, separators=(",", ":"))
    assert Artifact({"w": array}).digest == hashlib.sha256(manifest.encode()).hexdigest()


def test_large_tensors_hash_alike_on_many_threads_and_on_one():
    data = np.random.default_rng(0).integers(0, 256, 9 * CHUNK_BYTES + 17, dtype=np.uint8)
    spread = tree_digests([byte_view(data), byte_view(data[:100])])
    assert spread == [tree_digests([byte_view(data[: len(data)])])[0], tree_digests([byte_view(data[:100])])[0]]
    leaves = b"".join(
        hashlib.sha256(data[at : at + CHUNK_BYTES].tobytes()).digest() for at in range(0, len(data), CHUNK_BYTES)
    )
    assert spread[0] == hashlib.sha256(leaves).hexdigest()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": np.array([None])}, "'w': dtype 'object' cannot be in an artifact"),
        ({"w": np.array(["text"])}, "dtype 'str"),
        ({"w": np.zeros(2, "V4")}, "dtype 'void32'"),
        ({"w": np.array(["2026-01-01"], "M8[D]")}, "dtype 'datetime64"),
        ({"": WEIGHT}, "non-empty string"),
        ({"x" * (MAX_NAME_BYTES + 1): WEIGHT}, "at most 1024"),
        ({"\ud800": WEIGHT}, "not valid Unicode"),
        ({"w": np.zeros((1,) * (MAX_RANK + 1))}, "rank is 33, at most 32"),
    ],
)
def test_what_cannot_be_an_artifact_is_refused_by_name(tensors, message):
    with pytest.raises(ArtifactError, match=message):
        Artifact(tensors)


def test_logical_dtypes_are_checked():
    with pytest.raises(ArtifactError, match="dtypes names 'v'"):
        Artifact({"w": WEIGHT}, dtypes={"v": "bfloat16"})
    with pytest.raises(ArtifactError, match="bfloat16 is held as uint16, found an array of float32"):
        Artifact({"w": WEIGHT}, dtypes={"w": "bfloat16"})
    with pytest.raises(ArtifactError, match="dtype 'float8' cannot"):
        Artifact({"w": WEIGHT}, dtypes={"w": "float8"})


def test_specs_are_bounded():
    with pytest.raises(ArtifactError, match="negative"):
        TensorSpec("w", "float32", (2, -1))
    with pytest.raises(ArtifactError, match="at most"):
        TensorSpec("w", "float32", (1 << 30, 1 << 30))
    with pytest.raises(ArtifactError, match="at most"):
        TensorSpec("w", "float32", (0, 1 << 70))


def test_equality_and_hash_are_those_of_the_digest():
    one, same, other = Artifact({"w": WEIGHT}), Artifact({"w": WEIGHT.copy()}), Artifact({"w": WEIGHT + 1})
    assert one == same
    assert len({one, same, other}) == 2
    assert one != {"w": WEIGHT}
    assert one.digest[:12] in repr(one)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.sampled_from([spec for spec in DTYPES.values() if spec.name != "bfloat16"]).flatmap(
            lambda spec: hnp.arrays(spec.storage, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        max_size=4,
    )
)
def test_every_allowed_tensor_is_kept_bit_for_bit(tensors):
    artifact = Artifact(tensors)
    assert list(artifact) == list(tensors)
    for name, array in tensors.items():
        assert artifact[name].tobytes() == array.tobytes()
        assert artifact[name].shape == array.shape
        assert artifact.specs[name].dtype == array.dtype.name
    assert Artifact(dict(artifact)).digest == artifact.digest
