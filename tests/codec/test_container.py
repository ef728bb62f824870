"""Payloads made by hand: what the format does not allow, and what would exhaust memory."""

import tracemalloc

import numpy as np
import pytest
import zstandard

from flserve_app.artifact import Artifact, TensorSpec
from flserve_app.codec import container, decode, encode, inspect
from flserve_app.codec.container import Header, seal, unseal, write_content, write_record
from flserve_app.codec.frames import compress
from flserve_app.codec.ops import PLANES, PLANES_DELTA, RAW, SAME
from flserve_app.codec.wire import varint
from flserve_app.errors import CodecError, DigestMismatch
from tests.codec.mutations import reseal

TIB = 1 << 40
BASE = Artifact({"w": np.arange(64, dtype="f4")})


SPECS = (TensorSpec("w", "float32", (64,)),)


def payload(*records, specs=SPECS, **fields):
    """A payload of records; specs of None are left to the base."""
    nbytes = sum(spec.nbytes for spec in specs or BASE.specs.values())
    header = {"codec": 1, "target": "ab" * 32, "base": None, "nbytes": nbytes, "count": len(specs or BASE)}
    return b"".join(seal(Header(specs=specs, **(header | fields)), records))


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_layout_of_a_small_payload():
    made = encode(Artifact({"w": np.array([1, 2], "u1")}), codec="full")
    target = Artifact({"w": np.array([1, 2], "u1")}).digest
    body = b"FLSV" + bytes((1, 2, 1)) + bytes.fromhex(target) + bytes((2, 1, 1)) + b"w" + bytes((9, 1, 2, 1, 2, 1, 2))
    assert made[:-4] == body


def test_newer_format_is_named():
    made = bytearray(encode(BASE))
    made[4] = 2
    for damaged in (bytes(made), reseal(made)):
        with pytest.raises(CodecError, match=r"format version 2, this release reads 1: update flserve"):
            decode(damaged)


@pytest.mark.parametrize("flags", [0, 4, 8, 0x82, 0xFF])
def test_unknown_flags_are_refused(flags):
    made = bytearray(encode(BASE))
    made[5] = flags
    with pytest.raises(CodecError, match="flags"):
        decode(reseal(made))


@pytest.mark.parametrize("junk", [b"", b"F", b"FLSV", b"FLSV\x01", b"PK\x03\x04" * 20, b"\0" * 100])
def test_what_is_no_payload_is_refused(junk):
    with pytest.raises(CodecError):
        decode(junk)


def test_longer_form_of_a_varint_is_refused():
    made = encode(Artifact({}))
    assert made[39:41] == b"\0\0"
    with pytest.raises(CodecError, match="varint"):
        decode(reseal(made[:39] + b"\x80\0" + made[40:]))


def test_wrong_content_is_a_digest_mismatch():
    with pytest.raises(DigestMismatch, match="expected abab"):
        decode(payload(write_record(RAW, [bytes(256)])))


def test_record_after_the_last_is_refused():
    with pytest.raises(CodecError, match="too many"):
        decode(payload(write_record(RAW, [bytes(256)]), write_record(SAME, [])))


@pytest.mark.parametrize("size", [0, 255, 257])
def test_raw_content_of_another_size_is_refused(size):
    with pytest.raises(CodecError, match="expected 256"):
        decode(payload(write_record(RAW, [bytes(size)])))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ((TensorSpec("v", "float32", (64,)),), "not"),
        ((TensorSpec("w", "int32", (64,)),), "found float32"),
        ((TensorSpec("w", "float32", (63,)),), r"found float32 \(64,\)"),
        ((TensorSpec("w", "float32", (8, 8)),), r"found float32 \(64,\)"),
    ],
)
def test_same_needs_the_tensor_as_it_is(specs, message):
    with pytest.raises(CodecError, match=message):
        decode(payload(write_record(SAME, []), specs=specs, base=BASE.digest), BASE)


def test_same_without_a_base_is_refused():
    with pytest.raises(CodecError, match="needs it in the base"):
        decode(payload(write_record(SAME, [])))


@pytest.mark.parametrize("fields", [{"nbytes": 255}, {"nbytes": 1 << 50}])
def test_declared_size_must_be_that_of_the_structure(fields):
    with pytest.raises(CodecError, match="declares"):
        decode(payload(write_record(RAW, [bytes(256)]), **fields))


def test_count_must_be_that_of_the_base():
    with pytest.raises(CodecError, match="2 tensors"):
        decode(payload(*[write_record(SAME, [])] * 2, specs=None, base=BASE.digest, count=2), BASE)


@pytest.mark.parametrize(
    "structure",
    [
        varint(0) + b"\x01\0",  # no name
        varint(2) + b"\xff\xff\x01\0",  # not UTF-8
        varint(1) + b"w\x63\0",  # no such dtype
        varint(1) + b"w\x01" + varint(33) + b"\x01" * 33,  # rank
        varint(1) + b"w\x01" + varint(1) + varint(1 << 62),  # dimension
        varint(1) + b"w\x01" + varint(3) + varint(1 << 46) * 2 + varint(0),  # not representable, though empty
        varint(2000) + b"w" * 2000 + b"\x01\0",  # name too long
    ],
)
def test_bad_structure_is_refused(structure):
    head = b"FLSV\x01\x02\x01" + bytes(32) + varint(0) + varint(1)
    with pytest.raises(CodecError):
        decode(reseal(head + structure + bytes((RAW, 0)) + bytes(4)))


def test_name_that_stands_twice_is_refused():
    specs = (TensorSpec("w", "uint8", (0,)),) * 2
    with pytest.raises(CodecError, match="stands twice"):
        decode(payload(*[write_record(RAW, [])] * 2, specs=specs))


def test_more_tensors_than_allowed_are_refused():
    made = b"FLSV\x01\x02\x01" + bytes(32) + varint(0) + varint((1 << 16) + 1) + bytes(4)
    with pytest.raises(CodecError, match="65537 tensors"):
        decode(reseal(made))


@pytest.mark.parametrize("rank", [1, 32])
def test_what_declares_more_than_the_caller_takes_is_refused_before_a_tensor_is_looked_at(monkeypatch, rank):
    specs = tuple(TensorSpec(f"{number:x}", "uint8", (0, *(1,) * (rank - 1))) for number in range(65))
    made = payload(*[write_record(RAW, [])] * 65, specs=specs)
    large = payload(write_record(RAW, [bytes(256)]))
    monkeypatch.setattr(container, "_read_spec", lambda reader: pytest.fail("a tensor was looked at"))
    with pytest.raises(CodecError, match="payload has 65 tensors, at most 64 are allowed"):
        decode(made, max_tensors=64)
    with pytest.raises(CodecError, match="payload declares 256 bytes, at most 255 are accepted"):
        decode(large, max_bytes=255)


def test_as_many_as_the_caller_takes_are_taken():
    artifact = Artifact({f"{number:x}": np.zeros((0, 3), "u1") for number in range(64)})
    assert decode(encode(artifact, None, "lossless"), max_tensors=64, max_bytes=0) == artifact


def test_tebibyte_claimed_by_a_few_bytes_is_not_allocated():
    specs = (TensorSpec("w", "float32", (TIB // 4,)),)
    records = [write_record(RAW, [bytes(9)]), write_record(PLANES.code, write_content(b"", [bytes(9)]))]
    for record in records:
        with pytest.raises(CodecError, match="at most 8589934592 are accepted"):
            decode(payload(record, specs=specs))

        def claim(record=record):
            with pytest.raises(CodecError):
                decode(payload(record, specs=specs), max_bytes=2 * TIB)

        assert peak_of(claim) < 1 << 20


def test_scales_of_a_claimed_tensor_are_not_allocated():
    specs = (TensorSpec("w", "float32", (TIB // 4,)),)
    side = varint(16) + compress(bytes(1 << 20))
    record = write_record(PLANES.code, write_content(side, [b"x"] * 64))
    made = payload(record, specs=specs)

    def claim():
        with pytest.raises(CodecError):
            decode(made, max_bytes=2 * TIB)

    assert peak_of(claim) < 1 << 20


def test_frame_that_claims_more_than_its_plane_is_refused_before_it_is_read():
    bomb = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    ).compress(bytes(64 << 20))
    made = payload(write_record(PLANES.code, write_content(b"", [varint(len(bomb)) + bomb + b"\0\0\0"])))
    assert len(made) < 5000

    def claim():
        with pytest.raises(CodecError, match="declares 67108864 bytes, expected 64"):
            decode(made)

    assert peak_of(claim) < 1 << 20


def test_frame_without_a_size_is_refused():
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0)
    bomb = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(64 << 20))
    made = payload(write_record(PLANES.code, write_content(b"", [varint(len(bomb)) + bomb + b"\0\0\0"])))
    with pytest.raises(CodecError, match="expected 64"):
        decode(made)


@pytest.mark.parametrize("row", [2, 15, (1 << 17) + 1, 1 << 60])
def test_row_length_out_of_bounds_is_refused(row):
    with pytest.raises(CodecError, match=f"row length is {row}"):
        decode(payload(write_record(PLANES.code, write_content(varint(row) + bytes(99), [b"x"]))))


def test_chunk_without_a_body_needs_a_base():
    with pytest.raises(CodecError, match="without a body"):
        decode(payload(write_record(PLANES.code, write_content(b"", [b""]))))
    empty = payload(write_record(PLANES_DELTA.code, write_content(b"", [b""])), base=BASE.digest, target=BASE.digest)
    assert decode(empty, BASE) == BASE


def test_empty_tensor_has_no_chunks():
    specs = (TensorSpec("w", "float32", (0,)),)
    with pytest.raises(CodecError, match="0 chunks"):
        decode(payload(write_record(PLANES.code, write_content(b"", [b""])), specs=specs))


def test_decoding_needs_little_more_than_the_artifact():
    old = np.random.RandomState(0).normal(0, 0.1, 4_000_000).astype("f4")
    base, target = Artifact({"w": old}), Artifact({"w": (old * np.float32(1.0001))})
    base.manifest, target.manifest  # noqa: B018 digests are taken before memory is
    for codec in ("lossless", "lossless-small"):
        payloads = []
        assert peak_of(lambda codec=codec, payloads=payloads: payloads.append(encode(target, base, codec))) < 1.5 * 16e6
        assert peak_of(lambda payloads=payloads: decode(payloads[0], base)) < 16e6 + 20e6


def test_inspect_reads_records_only():
    made = payload(write_record(PLANES.code, write_content(b"", [b"not a frame"])))
    info = inspect(made)
    assert [(tensor.name, tensor.op, tensor.nbytes) for tensor in info.tensors] == [("w", "planes", 14)]


def test_unsealed_reader_stands_after_the_version():
    assert unseal(memoryview(encode(BASE))).position == 5
