"""The steps of a grid: which there are, and how one is named in a payload.

A step is 4, 5, 6 or 7 quarters of a power of two:

    m * 2**(e - 2), m in 4 to 7, |e| <= MOST_EXPONENT

so few bits that whole numbers of it are floats to the last bit. Powers of two (m = 4) leave a factor of two between one
and the next, of four in the error; but what moved by several powers of two moved by whole steps of the smallest, which
makes payloads over several versions short (`composed`).

In a payload: zigzag(e), a byte of 0 to 200, for a power of two; else 196 + m and zigzag(e).
"""

from __future__ import annotations

from itertools import pairwise
from math import frexp, inf, ldexp

from flserve_app.errors import CodecError

MOST_EXPONENT = 100
MOST_STEPS = 1 << 24
_MOST_FINE_STEPS = MOST_STEPS // 8
_POWER, _PAST = 4, 8  # m of a power of two, and of the next one
_FINE = 2 * MOST_EXPONENT - _POWER


def step_near(wanted: float, *, fine: bool) -> float | None:
    """Return the step nearest to a number >= 0, by their ratio; None if there is none so small or large.

    Args:
        wanted: The number.
        fine: Whether all steps are meant, or powers of two alone.
    """
    if not 0 < wanted < inf:
        return None
    mantissa, exponent = frexp(wanted)
    quarters = _PAST * mantissa
    allowed = (4, 5, 6, 7, 8) if fine else (4, 8)
    # Of two neighbours the geometric mean decides.
    nearest = next((m for m, above in pairwise(allowed) if quarters * quarters < m * above), _PAST)
    # One more than the most: 8 quarters of the one below may still be a step.
    step = ldexp(nearest, exponent - 3) if abs(exponent) <= MOST_EXPONENT + 2 else 0.0
    return step if is_step(step) else None


def is_step(step: float) -> bool:
    """Return whether a number is a step."""
    if not 0 < step < inf:
        return False
    quarters, exponent = _parts(step)
    return quarters.is_integer() and abs(exponent) <= MOST_EXPONENT


def most_steps(step: float) -> int:
    """Return what a count of steps must be less than, for their sum to be a float32 to the last bit."""
    return MOST_STEPS if _parts(step)[0] == _POWER else _MOST_FINE_STEPS


def step_bytes(step: float) -> bytes:
    """Return the bytes that name a step in a payload."""
    quarters, exponent = _parts(step)
    zigzag = (exponent << 1) ^ (exponent >> 31)
    return bytes((zigzag,)) if quarters == _POWER else bytes((_FINE + int(quarters), zigzag))


def read_step(side: memoryview) -> tuple[float, memoryview]:
    """Return the step that bytes begin with, and the bytes behind it.

    Raises:
        CodecError: If they name none.
    """
    quarters = side[0] - _FINE if side and side[0] > 2 * MOST_EXPONENT else _POWER
    named = side[1:] if quarters > _POWER else side
    if not named:
        raise CodecError("step: no bytes, expected an exponent")
    exponent = (named[0] >> 1) ^ -(named[0] & 1)
    if quarters >= _PAST or abs(exponent) > MOST_EXPONENT:
        raise CodecError(
            f"step: {quarters} quarters of 2**{exponent}, expected {_POWER} to {_PAST - 1} "
            f"and an exponent of {-MOST_EXPONENT} to {MOST_EXPONENT}"
        )
    return ldexp(quarters, exponent - 2), named[1:]


def _parts(step: float) -> tuple[float, int]:
    """Return quarters, 4 to 8, and the exponent of a step > 0."""
    mantissa, exponent = frexp(step)
    return _PAST * mantissa, exponent - 1
