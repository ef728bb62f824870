"""Damaged payloads: random edits, with the checksum as it was or made right again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from flserve_app.codec.wire import CHECKSUM_BYTES, checksum


def reseal(payload: bytes | bytearray) -> bytes:
    """Give a payload the checksum of what it now holds."""
    body = bytes(payload[:-CHECKSUM_BYTES])
    return body + checksum(memoryview(body))


def mutations(payloads: Sequence[bytes], count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """Yield (index of the original, mutated payload); three of four have a right checksum."""
    random = Random(seed)
    for step in range(count):
        index = random.randrange(len(payloads))
        payload = bytearray(payloads[index])
        for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
            _edit(payload, random, payloads)
        if payload != payloads[index]:
            yield index, reseal(payload) if step % 4 else bytes(payload)


def _edit(payload: bytearray, random: Random, donors: Sequence[bytes]) -> None:
    at = random.randrange(max(1, len(payload)))
    match random.randrange(6):
        case 0:
            payload[at : at + 1] = bytes((random.randrange(256),))
        case 1:
            payload[at : at + 1] = bytes((payload[at] ^ 1 << random.randrange(8),)) if payload else b""
        case 2:
            del payload[at : at + random.randrange(1, 9)]
        case 3:
            payload[at:at] = random.randbytes(random.randrange(1, 9))
        case 4:
            payload[at : at + 8] = random.choice((b"\xff" * 8 + b"\x7f", b"\0" * 8, b"\x80\0", b"\xff\xff\xff\xff\x0f"))
        case 5:
            donor = random.choice(donors)
            start = random.randrange(len(donor))
            size = random.randrange(1, 64)
            payload[at : at + size] = donor[start : start + size]
