"""The golden payloads: read as ever, and no damaged one is ever read."""

import json
import tracemalloc
from pathlib import Path

import pytest

from flserve_app.codec import decode, inspect
from flserve_app.codec.ops import NAMES
from flserve_app.errors import CodecError, FlserveError
from tests.codec.mutations import mutations, reseal
from tests.vectors.generate import FOLDER, bases, check

INDEX = json.loads((FOLDER / "index.json").read_text())["vectors"]
BASES = bases()
MOST_MEMORY = 4 << 20  # what is accepted at most is 1 MiB, and the vectors are far below it


def payload_of(name: str) -> bytes:
    return (FOLDER / f"{name}.flsv").read_bytes()


def test_files_and_index_agree_with_this_release():
    check()


def test_index_lists_all_files():
    assert {path.stem for path in Path(FOLDER).glob("*.flsv")} == set(INDEX)


def test_vectors_cover_every_op():
    assert {op for entry in INDEX.values() for op in entry["ops"]} == set(NAMES.values())


@pytest.mark.parametrize("name", INDEX)
def test_every_flipped_bit_is_refused(name):
    payload = payload_of(name)
    for position in range(len(payload)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(payload)
            damaged[position] ^= flip
            with pytest.raises(FlserveError):
                decode(bytes(damaged), BASES[name])
            with pytest.raises(CodecError):
                inspect(bytes(damaged))


@pytest.mark.parametrize("name", INDEX)
def test_every_truncation_and_extension_is_refused(name):
    payload = payload_of(name)
    for size in range(len(payload)):
        with pytest.raises(CodecError):
            decode(payload[:size], BASES[name])
    for more in (b"\0", b"\xff", payload):
        with pytest.raises(CodecError):
            decode(payload + more, BASES[name])


@pytest.mark.parametrize("name", INDEX)
def test_no_flip_under_a_right_checksum_gives_another_artifact(name):
    payload = payload_of(name)
    for position in range(len(payload) - 4):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(payload)
            damaged[position] ^= flip
            assert outcome(reseal(damaged), name) in (None, INDEX[name]["target"])


def test_random_mutations_give_no_other_artifact_and_take_no_memory(mutation_count):
    names = sorted(INDEX)
    payloads = [payload_of(name) for name in names]
    tracemalloc.start()
    try:
        for index, damaged in mutations(payloads, mutation_count, seed=0):
            assert outcome(damaged, names[index]) in (None, INDEX[names[index]]["target"])
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def outcome(payload: bytes, name: str) -> str | None:
    """Digest of what a payload leads to, None if it is refused."""
    try:
        return decode(payload, BASES[name], max_bytes=1 << 20).digest
    except FlserveError:
        return None
