import io
import json
import struct
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flserve_app.artifact import DTYPES, Artifact
from flserve_app.artifact.exchange import from_npz, from_safetensors, to_npz, to_safetensors
from flserve_app.errors import ArtifactError, DigestMismatch, FlserveError

safetensors_numpy = pytest.importorskip("safetensors.numpy")
ARRAYS = st.sampled_from(sorted(set(DTYPES) - {"complex128"})).flatmap(
    lambda name: st.tuples(
        st.just(name),
        hnp.arrays(DTYPES[name].storage, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    )
)
ARTIFACTS = st.dictionaries(st.text("abc./é", min_size=1, max_size=6), ARRAYS, max_size=5).map(
    lambda found: Artifact(
        {name: array for name, (_, array) in found.items()}, dtypes={name: dtype for name, (dtype, _) in found.items()}
    )
)
SAMPLE = Artifact(
    {
        "steps": np.array(3, np.int8),
        "half": np.array([0x3F80, 0x7FC1], np.uint16),
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": np.empty((0, 4), np.float64),
    },
    dtypes={"half": "bfloat16"},
)


@settings(max_examples=60, deadline=None)
@given(artifact=ARTIFACTS)
def test_an_artifact_comes_back_bit_for_bit(artifact):
    for back in (from_safetensors(to_safetensors(artifact)), from_npz(to_npz(artifact))):
        assert back == artifact
        assert list(back) == list(artifact)


def test_others_read_our_safetensors():
    loaded = safetensors_numpy.load(to_safetensors(Artifact({n: SAMPLE[n] for n in ("steps", "weight", "none")})))
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, SAMPLE[name])
    assert len(loaded) == 3


def test_torch_reads_our_safetensors(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    (tmp_path / "model.safetensors").write_bytes(to_safetensors(SAMPLE))
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["half"].view(torch.int16).numpy().view(np.uint16).tolist() == [0x3F80, 0x7FC1]
    np.testing.assert_array_equal(loaded["weight"].numpy(), SAMPLE["weight"])


def test_we_read_safetensors_of_others():
    tensors = {"b": np.arange(3, dtype=np.int8), "a": np.ones((2, 2), np.float32), "c": np.empty((0,), np.int64)}
    back = from_safetensors(safetensors_numpy.save(tensors, metadata={"author": "somebody"}))
    assert {name: array.tolist() for name, array in back.items()} == {n: a.tolist() for n, a in tensors.items()}


def test_others_read_our_npz():
    with np.load(io.BytesIO(to_npz(SAMPLE)), allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["weight"], SAMPLE["weight"])
        assert loaded["half"].dtype == np.uint16
        assert sorted(loaded.files) == ["flserve.json", "half", "none", "steps", "weight"]


def test_we_read_npz_of_others():
    content = io.BytesIO()
    weight = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez_compressed(content, weight=weight, big=np.array([1, 2], ">i4"), none=np.empty((0, 2)))
    back = from_npz(content.getvalue())
    np.testing.assert_array_equal(back["weight"], weight)
    assert back["big"].tolist() == [1, 2]
    assert back["none"].shape == (0, 2)


def safetensors_file(header, body=b"", *, length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x01\x00", "not a safetensors file"),
        (safetensors_file({}, length=1 << 60), "claims 1152921504606846976"),
        (safetensors_file({}, length=3), "claims 3"),
        (safetensors_file(b"nonsense"), "its header is not JSON"),
        (safetensors_file(b"\xff\xfe\xfd"), "its header is not JSON"),
        (safetensors_file(b"[" * 200_000), "its header is not JSON"),
        (safetensors_file(b'{"a": {}, "a": {}}'), "a name stands twice"),
        (safetensors_file([]), "not an object of objects"),
        (safetensors_file({"__metadata__": 1}), "not an object of objects"),
        (safetensors_file({"a": 1}), "does not hold together"),
        (safetensors_file({"a": entry(dtype="F3")}, bytes(4)), "does not hold together"),
        (safetensors_file({"a": entry(shape=(2,))}, bytes(4)), "does not hold together"),
        (safetensors_file({"a": entry(shape=(True,))}, bytes(4)), "does not hold together"),
        (safetensors_file({"a": entry(shape=(-1,), offsets=(4, 0))}, bytes(4)), "negative dimension"),
        (safetensors_file({"a": entry(shape=(1 << 62,), offsets=(0, 1 << 64))}), "at most"),
        (safetensors_file({"a": entry(shape=(0, 1 << 70), offsets=(0, 0))}), "at most"),
        (safetensors_file({"a": entry(offsets=(4, 8))}, bytes(8)), "starts at 4, expected 0"),
        (safetensors_file({"a": entry(), "b": entry()}, bytes(4)), "starts at 0, expected 4"),
        (safetensors_file({"a": entry()}, bytes(5)), "take 4 bytes, found 5"),
        (safetensors_file({"a": entry()}, bytes(3)), "take 4 bytes, found 3"),
    ],
)
def test_a_bad_safetensors_file_is_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        from_safetensors(data)


def test_what_was_written_here_is_verified():
    data = bytearray(to_safetensors(SAMPLE))
    data[-1] ^= 1
    with pytest.raises(DigestMismatch, match="says it holds"):
        from_safetensors(bytes(data))


def test_what_a_format_cannot_hold_is_refused():
    with pytest.raises(ArtifactError, match="'x' of complex128 cannot be in a safetensors file"):
        to_safetensors(Artifact({"x": np.ones(1, np.complex128)}))
    with pytest.raises(ArtifactError, match="'__metadata__' of float64 cannot be"):
        to_safetensors(Artifact({"__metadata__": np.ones(1)}))
    with pytest.raises(ArtifactError, match="has a NUL"):
        to_npz(Artifact({"a\0b": np.ones(1)}))


def npz(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def npy(header: str, body: bytes = b"", version=(1, 0)) -> bytes:
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + body


def described(descr="<f4", shape="(1,)", order="False") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable npz"),
        (b"PK\x03\x04 nonsense", "not a readable npz"),
        (npz({"a.npy": b"nonsense"}), "not a readable npz"),
        (npz({"a.npy": npy("__import__('os')")}), "not a readable npz"),
        (npz({"a.npy": npy(described(descr="|O"), bytes(8))}), "does not fit"),
        (npz({"a.npy": npy(described(descr="<U1"), bytes(4))}), "does not fit"),
        (npz({"a.npy": npy(described(shape=f"({1 << 40},)"))}), "does not fit"),
        (npz({"a.npy": npy(described(shape="(-1,)"))}), "does not fit"),
        (npz({"a.npy": npy(described(), bytes(5))}), "does not fit"),
        (npz({"a.npy": npy(described(), bytes(4), version=(3, 0))}), "version"),
        (npz({"a.npy": npy(described(descr="<f16"), bytes(16))}), "cannot be in an artifact"),
        (npz({"a.npy": npy(described(shape=f"(0, {1 << 70})"))}), "not a readable npz"),
        (npz({"a.npy": npy(described(), bytes(4)), "a": npy(described(), bytes(4))}), "member 'a' is not an array"),
        (npz({"aa.npy": b"", "bb.npy": b""}).replace(b"bb.npy", b"aa.npy"), "stands twice"),
        (npz({"flserve.json": b"nonsense"}), "not a readable npz"),
        (npz({"flserve.json": b"[]"}), "not a readable npz"),
        (npz({"flserve.json": b'{"dtypes": {"a": 1}}'}), "does not map names to dtypes"),
        (npz({"flserve.json": b'{"dtypes": {"a": "bfloat16"}}'}), "not among the tensors"),
    ],
)
def test_a_bad_npz_file_is_refused(data, message):
    with pytest.raises(ArtifactError, match=message):
        from_npz(data)


def test_a_zip_bomb_is_not_unpacked():
    with pytest.raises(ArtifactError, match="take 50000000 bytes, at most 1000000"):
        from_npz(npz({"a.npy": bytes(50_000_000)}), max_bytes=1_000_000)


@pytest.mark.parametrize(("write", "read"), [(to_safetensors, from_safetensors), (to_npz, from_npz)])
def test_damage_anywhere_is_an_error_of_ours_or_harmless(write, read):
    """Padding and names of zip fields may change unseen; a tensor may not change its bits unseen."""
    data = write(SAMPLE)
    accepted = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x20
        try:
            back = read(bytes(damaged))
        except FlserveError:
            continue
        accepted += 1
        for name in SAMPLE.keys() & back.keys():
            assert back[name].tobytes() == SAMPLE[name].tobytes()
    assert accepted < len(data)
