"""What others may send instead of something good: the good thing changed in its structure or in its bytes, or noise.

All of it follows from a seed, so a failure is found again by its number.
"""

import copy
import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

NASTY = (
    None, True, False, 0, -1, 1, 7, 255, 2**31 - 2, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**40,
    0.0, -0.0, 0.5, 1e16, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "0", "nan", "inf", "a" * 300, "\x1b]0;owned\x07", "a\nb", "\u202etxet", "\ud800", "\0", "../../etc/passwd",
    "0001-01-01T00:00:00.000000+23:00", "9999-12-31T23:59:59.000000-23:00", "2026-01-01", "f" * 64, "int64", "float32",
    [], [[]], {}, {"": 0}, {"\x1b[2J": 1.0}, [None] * 40, [0] * 70,
)  # fmt: skip
_TEXTS = (
    b"", b"null", b"0", b"[]", b"{}", b'""', b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000, b"-", b"1e999", b"NaN",
    b'{"a":1,"a":2}', b"\xff\xfe", b"\xef\xbb\xbf{}", b'"\\ud800"', b" {}", b"\0",
)  # fmt: skip

fuzz = settings(max_examples=100, derandomize=True)
fuzz_stores = settings(max_examples=25, derandomize=True)  # a store takes some tenths of a second
seeds = given(seed=st.integers(0, 2**63))


def nasty(stream: random.Random):
    """Return some value of JSON that hardly anybody expects, at times within others."""
    value = copy.deepcopy(stream.choice(NASTY))
    if stream.random() < 0.05:
        for _ in range(stream.choice((3, 40, 900))):
            value = [value] if stream.random() < 0.5 else {"a": value}
    return value


def changed(value, stream: random.Random):
    """Return a JSON value with one to three changes somewhere inside."""
    value = copy.deepcopy(value)
    for _ in range(stream.choice((1, 1, 1, 2, 3))):
        value = _changed_once(value, stream)
    return value


def changed_text(value, stream: random.Random, **dumped) -> bytes:
    """Return the text of a JSON value, changed in its structure or its bytes, or other text."""
    way = stream.random()
    if way < 0.05:
        return stream.choice(_TEXTS)
    if way < 0.1:
        return stream.randbytes(stream.randrange(200))
    if way < 0.7:
        return json.dumps(changed(value, stream), **dumped).encode("utf-8", "surrogatepass")
    return changed_bytes(json.dumps(value, **dumped).encode("utf-8", "surrogatepass"), stream)


def changed_bytes(data: bytes, stream: random.Random) -> bytes:
    """Return bytes with some flipped, cut, doubled or put in."""
    found = bytearray(data)
    for _ in range(stream.choice((1, 1, 2, 5))):
        at = stream.randrange(len(found) + 1)
        match stream.randrange(5):
            case 0 if at < len(found):
                found[at] ^= 1 << stream.randrange(8)
            case 1:
                del found[at:]
            case 2:
                del found[at : at + stream.randrange(1, 9)]
            case 3:
                found[at:at] = found[at : at + stream.randrange(1, 40)]
            case _:
                found[at:at] = stream.randbytes(stream.randrange(1, 5))
    return bytes(found)


def _changed_once(value, stream: random.Random):
    if not isinstance(value, dict | list) or not value or stream.random() < 0.05:
        return nasty(stream)
    if isinstance(value, list):
        at = stream.randrange(len(value))
        match stream.randrange(8):
            case 0:
                del value[at]
            case 1:
                value.insert(at, copy.deepcopy(value[at]))
            case 2:
                value.insert(at, nasty(stream))
            case 3:
                value.reverse()
            case _:
                value[at] = _changed_once(value[at], stream)
        return value
    name = stream.choice(list(value))
    match stream.randrange(8):
        case 0:
            del value[name]
        case 1:
            value[str(stream.choice(NASTY[25:40]))] = nasty(stream)
        case 2:
            other = stream.choice(list(value))
            value[name], value[other] = value[other], value[name]
        case _:
            value[name] = _changed_once(value[name], stream)
    return value
