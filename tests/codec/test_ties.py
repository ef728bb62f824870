"""Tied tensors: once on the wire, the same after rounding, and no way around a bound."""

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import Roles
from flserve_app.codec import CODECS, Rounding, decode, encode, encode_composed, inspect, round_to
from flserve_app.codec.container import Header, seal, write_record
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.lossy import send
from flserve_app.codec.ops import RAW, TIED
from flserve_app.codec.ties import ties_of
from flserve_app.codec.wire import varint
from flserve_app.errors import CodecError, DigestMismatch
from tests.codec.mutations import reseal

DRAW = np.random.default_rng(0)
EMBEDDING, LAYER = DRAW.normal(size=(300, 64)).astype("f4"), DRAW.normal(size=(64, 64)).astype("f4")


def tied(embedding=EMBEDDING, layer=LAYER, names=("wte", "lm_head")):
    first, *others = names
    return Artifact({first: embedding, "layer": layer, **dict.fromkeys(others, embedding)})


def moved(values, seed=1):
    return (values + 1e-3 * np.random.default_rng(seed).normal(size=values.shape)).astype(values.dtype)


def ops_of(payload):
    return [tensor.op for tensor in inspect(payload).tensors]


@pytest.mark.parametrize("names", [("wte", "lm_head"), ("shared", "encoder", "decoder", "lm_head")])
@pytest.mark.parametrize("codec", CODECS)
def test_what_is_tied_travels_once_by_every_codec(codec, names):
    base, target = tied(names=names), tied(moved(EMBEDDING), moved(LAYER, 2), names)
    single = tied(names=names[:1]), tied(moved(EMBEDDING), moved(LAYER, 2), names[:1])
    for held, one in ((None, None), (base, single[0])):
        payload, alone = encode(target, held, codec), encode(single[1], one, codec)
        assert ops_of(payload)[2:] == ["tied"] * (len(names) - 1)
        if CODECS[codec].exact or held is None:
            assert len(payload) < len(alone) + 30 * (len(names) - 1), "a name and a reference"
        published = decode(payload, held)
        assert set(ties_of(published)) == set(names[1:])


def test_ties_are_found_by_bytes_and_form_alone():
    zeros = np.zeros(8, "f4")
    minus = -zeros
    artifact = Artifact(
        {
            "a": zeros,
            "other dtype": zeros.view("i4"),
            "other shape": zeros.reshape(2, 4),
            "other bits": minus,
            "again": zeros.copy(),
            "last": minus.copy(),
            "empty": zeros[:0],
            "empty again": zeros[:0],
            "scalar": np.float32(0),
            "scalar again": np.float32(0),
        }
    )
    expected = {"again": "a", "last": "other bits", "scalar again": "scalar"}
    assert ties_of(artifact) == expected
    assert artifact.digest
    assert artifact.is_hashed
    assert ties_of(artifact) == expected, "whether or not it is hashed already"
    payload = encode(artifact, codec="full")
    assert decode(payload) == artifact
    assert ops_of(payload) == ["raw", "raw", "raw", "raw", "tied", "tied", "raw", "raw", "raw", "tied"]


def test_what_only_looks_alike_is_not_tied():
    large = np.zeros(100_000, "u1")
    others = [large.copy() for _ in range(3)]
    for at, other in enumerate(others):
        other[at + 1] = 1
    assert ties_of(Artifact({"first": large, **{f"{at}": other for at, other in enumerate(others)}})) == {}


def test_a_pair_that_parts_and_one_that_meets():
    base, parted = tied(), Artifact({**tied(), "lm_head": moved(EMBEDDING)})
    assert decode(encode(parted, base), base) == parted
    assert decode(encode(base, parted), parted) == base
    assert ops_of(encode(base, parted)) == ["same", "same", "tied"], "the second is the first, which did not move"


def test_a_composed_delta_refers_too():
    base, target = tied(), tied(EMBEDDING + np.float32(2.0**-9), LAYER)
    payload = encode_composed(target, base)
    assert decode(payload, base) == target
    assert ops_of(payload) == ["grid-delta", "same", "tied"]
    plainly = encode_composed(target, base, ties=False)
    assert (decode(plainly, base), ops_of(plainly)[2]) == (target, "grid-delta")


ROUNDINGS = [
    Rounding(kind="grid"),
    Rounding(kind="grid", scope="model", fine=True),
    Rounding(kind="grid", dither=5),
    Rounding(kind="topk"),
    Rounding(kind="topk", levels=1),
    Rounding(kind="topk", roles=Roles.from_pairs([["lm_head", "statistic"]])),
]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_what_is_tied_stays_tied_over_rounds_with_feedback(rounding, dtype):
    held, residual = tied(EMBEDDING.astype(dtype), LAYER.astype(dtype)), None
    feedback = Feedback(decay=0.0 if rounding.dither else 1.0)
    for seed in range(4):
        wanted = tied(moved(held["wte"], seed), moved(held["layer"], seed + 10))
        sent = send(wanted, held, rounding, feedback, residual)
        assert ties_of(sent.artifact) == {"lm_head": "wte"}
        assert decode(sent.payload, held) == sent.artifact
        assert sent.artifact != held
        held, residual = sent.artifact, sent.residual


@pytest.mark.parametrize("kind", ["grid", "topk"])
def test_tensors_that_meet_are_taken_exactly_and_rounded_alike_from_then_on(kind):
    apart = Artifact({**tied(), "lm_head": moved(EMBEDDING, 3)})
    wanted = tied(moved(EMBEDDING, 4), moved(LAYER, 5))
    met = round_to(wanted, apart, Rounding(kind=kind))
    assert list(met.steps) == ["layer"]
    assert met.artifact["wte"].tobytes() == met.artifact["lm_head"].tobytes() == wanted["wte"].tobytes()
    later = round_to(tied(moved(met.artifact["wte"], 6), LAYER), met.artifact, Rounding(kind=kind))
    assert later.steps["wte"] == later.steps["lm_head"]
    assert ties_of(later.artifact) == {"lm_head": "wte"}


def forged(target, records, specs=None, nbytes=None):
    """A payload of records as they are, whatever they say."""
    specs = tuple(target.specs.values()) if specs is None else specs
    size = sum(spec.nbytes for spec in specs) if nbytes is None else nbytes
    header = Header(codec=1, target=target.digest, base=None, nbytes=size, count=len(specs), specs=specs)
    return b"".join(seal(header, records))


def raw(values):
    return write_record(RAW, [values.tobytes()])


def refers(place):
    return write_record(TIED, [varint(place)])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([raw(EMBEDDING), raw(LAYER), refers(1)], "which is float32"),
        ([raw(EMBEDDING), raw(LAYER), refers(2)], "tied to tensor 2"),
        ([raw(EMBEDDING), raw(LAYER), refers(1 << 62)], "expected an earlier one"),
        ([refers(0), raw(LAYER), raw(EMBEDDING)], "tied to tensor 0"),
        ([refers(2), raw(LAYER), raw(EMBEDDING)], "tied to tensor 2"),
        ([raw(EMBEDDING), raw(LAYER), write_record(TIED, [b""])], "1 expected, 0 found"),
        ([raw(EMBEDDING), raw(LAYER), write_record(TIED, [b"\0\0"])], "1 bytes too many"),
        ([raw(EMBEDDING), raw(LAYER), write_record(TIED, [b"\x80\0"])], "bad varint"),
    ],
)
def test_a_reference_that_is_none_is_refused(records, message):
    with pytest.raises(CodecError, match=message):
        decode(forged(tied(), records))


def test_no_reference_to_a_reference():
    three = tied(names=("a", "b", "c"))
    decode(forged(three, [raw(EMBEDDING), raw(LAYER), refers(0), refers(0)]))
    with pytest.raises(CodecError, match="tied to tensor 2, expected an earlier one that is not tied"):
        decode(forged(three, [raw(EMBEDDING), raw(LAYER), refers(0), refers(2)]))


def test_a_reference_to_another_tensor_is_found_by_the_digest():
    other = Artifact({"a": EMBEDDING, "b": moved(EMBEDDING)})
    with pytest.raises(DigestMismatch):
        decode(forged(other, [raw(EMBEDDING), refers(0)]))


def test_references_count_in_full():
    values = np.ones(1 << 16, "u1")
    many = Artifact({f"{at}": values for at in range(1000)})
    payload = encode(many, codec="full")
    assert len(payload) < 80_000
    assert inspect(payload).declared_bytes == many.nbytes == 1000 << 16
    with pytest.raises(CodecError, match="at most"):
        decode(payload, max_bytes=many.nbytes - 1)
    with pytest.raises(CodecError, match="at most 999"):
        decode(payload, max_tensors=999)
    specs = tuple(many.specs.values())
    records = [raw(values), *(refers(0) for _ in specs[1:])]
    with pytest.raises(CodecError, match="its structure has"):
        decode(forged(many, records, nbytes=values.nbytes), max_bytes=values.nbytes)
    assert decode(payload) == many


def test_a_damaged_reference_is_refused():
    payload = bytearray(encode(tied(), codec="full"))
    payload[-5] ^= 1
    with pytest.raises(CodecError):
        decode(reseal(payload))


def test_a_model_without_repeats_is_coded_as_ever():
    model = Artifact({"w": EMBEDDING, "v": LAYER})
    for codec in CODECS:
        assert encode(model, codec=codec) == encode(model, codec=codec, ties=False)
