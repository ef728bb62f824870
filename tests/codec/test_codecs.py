import numpy as np
import pytest

from flserve_app.artifact import DTYPES, Artifact
from flserve_app.codec import CODECS, Codec, decode, encode, inspect
from flserve_app.codec.ops import PLANES
from flserve_app.errors import CodecError
from tests.codec.contract import CodecContract, RoundingContract
from tests.codec.examples import halved, network, trained


class TestFull(CodecContract):
    codec = "full"

    def test_is_raw_whatever_the_base(self):
        target = Artifact(network(1))
        payload = encode(target, target, self.codec)
        assert payload == encode(target, None, self.codec)
        assert {tensor.op for tensor in inspect(payload).tensors} == {"raw"}


class TestLossless(CodecContract):
    codec = "lossless"


class TestLosslessSmall(CodecContract):
    codec = "lossless-small"


class TestGrid(RoundingContract):
    codec = "grid"


class TestTopk(RoundingContract):
    codec = "topk"


@pytest.mark.parametrize("codec", ["lossless", "lossless-small"])
def test_unchanged_tensors_take_a_byte_each(codec):
    artifact = Artifact(network(1))
    payload = encode(artifact, artifact, codec)
    assert {(tensor.op, tensor.nbytes) for tensor in inspect(payload).tensors} == {("same", 1)}
    assert len(payload) < 90


def test_delta_is_far_below_full():
    old = network(1, rows=512, columns=256)
    base, target = Artifact(old), Artifact(trained(old, 1))
    assert len(encode(target, base, "lossless")) < 0.65 * target.nbytes
    assert len(encode(target, base, "lossless-small")) < 0.62 * target.nbytes
    base, target = halved(old), halved(trained(old, 1))
    assert len(encode(target, base, "lossless-small")) < 0.35 * target.nbytes


def test_rows_that_move_alike_are_coded_together():
    random = np.random.RandomState(0)
    old = random.normal(0, 0.1, (256, 512)).astype("f4")
    move = (
        random.normal(0, 1e-4, old.shape) * 2.0 ** random.randint(-8, 1, (256, 1)) * 2.0 ** random.randint(-8, 1, 512)
    )
    base = Artifact({"w": old})
    by_place = encode(Artifact({"w": (old + move).astype("f4")}), base, "lossless-small")
    shuffled = random.permutation(move.reshape(-1)).reshape(old.shape)
    anywhere = encode(Artifact({"w": (old + shuffled).astype("f4")}), base, "lossless-small")
    assert len(by_place) < 0.93 * len(anywhere)


def test_part_of_a_tensor_that_did_not_move_costs_nothing():
    old = np.random.RandomState(0).normal(0, 0.1, 500_000).astype("f4")
    new = old.copy()
    new[:1000] *= 1.001
    assert len(encode(Artifact({"w": new}), Artifact({"w": old}))) < 6000


def test_renamed_tensor_travels_in_full():
    old = network(1)
    base = Artifact(old)
    target = Artifact({"head.weight" if name == "fc.weight" else name: array for name, array in old.items()})
    payload = encode(target, base)
    ops = {tensor.name: tensor.op for tensor in inspect(payload).tensors}
    assert ops.pop("head.weight") in {"planes", "bins"}
    assert set(ops.values()) == {"same"}
    assert decode(payload, base) == target


def test_reshaped_tensor_still_travels_as_a_delta():
    old = network(1)
    base = Artifact(old)
    target = Artifact({**old, "fc.weight": trained(old, 1)["fc.weight"].reshape(64, 96)})
    payload = encode(target, base)
    assert {tensor.op for tensor in inspect(payload).tensors} <= {"same", "bins-delta", "planes-delta"}
    assert decode(payload, base) == target


def test_unknown_codec_names_the_known():
    with pytest.raises(CodecError, match="'zip'; known: full, lossless, lossless-small, grid, topk"):
        encode(Artifact({}), codec="zip")


def test_codec_may_be_given_as_a_value():
    mine = Codec(name="mine", number=200, offers=lambda pair: ())
    target = Artifact(network(1))
    payload = encode(target, codec=mine)
    assert decode(payload) == target
    assert inspect(payload).codec == "200"


def test_codecs_cannot_be_changed():
    with pytest.raises(TypeError):
        CODECS["mine"] = CODECS["full"]


def test_codec_numbers_are_unique():
    assert len({codec.number for codec in CODECS.values()}) == len(CODECS)


def test_planes_have_no_side_bytes():
    with pytest.raises(CodecError, match="4 side bytes, expected none"):
        PLANES.open(memoryview(b"\x10abc"), DTYPES["float32"], 64)
