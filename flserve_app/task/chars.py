"""Which character comes next, in the text of a play.

The text is Shakespeare's "As You Like It" (1623, in the public domain), beside this file without its list of
persons: so an app bundle carries it, and it is the same on every machine, which no text that comes with some
release of Python is. The play is cut into blocks, and whole blocks are held out, so that no window of the test
overlaps one that is trained on.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from flserve_app.errors import TaskError
from flserve_app.task.dataset import Examples, Task
from flserve_app.task.seeds import stream
from flserve_app.task.spec import TaskSpec

TEST_FRACTION = 0.1
BLOCK = 1024
STRIDE = 4
MAX_WINDOW = 256
_TEXT = Path(__file__).with_name("as_you_like_it.md")


def load_chars(spec: TaskSpec) -> Task:
    """Return windows of `dim` characters, int64 of shape (dim,), each labelled with the character after it.

    A window starts at every fourth character; the seed picks the 10 % of blocks for the test.

    Raises:
        TaskError: If `dim` is over 256.
    """
    if spec.dim > MAX_WINDOW:
        raise TaskError(f"task 'chars': dim is {spec.dim}, a window has at most {MAX_WINDOW} characters")
    text = _text()
    characters = tuple(sorted(set(text)))
    blocks = _blocks(text, characters)
    order = stream(spec.seed, "chars").permutation(len(blocks))
    held_out = round(TEST_FRACTION * len(blocks))
    return Task(
        name="chars",
        input_shape=(spec.dim,),
        classes=characters,
        train=_windows(blocks[order[held_out:]], spec.dim),
        test=_windows(blocks[order[:held_out]], spec.dim),
        preprocessing={
            "raw": f"the last {spec.dim} characters, each as its index in the classes",
            "text": "William Shakespeare, As You Like It",
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
        },
    )


@cache
def _text() -> str:
    return _TEXT.read_text(encoding="ascii")


def _blocks(text: str, characters: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Return the text as indices of characters, shape (blocks, BLOCK); the rest at the end is left out."""
    index = np.zeros(128, dtype=np.int64)
    index[[ord(character) for character in characters]] = np.arange(len(characters))
    encoded = index[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    return encoded[: len(encoded) // BLOCK * BLOCK].reshape(-1, BLOCK)


def _windows(blocks: npt.NDArray[np.int64], dim: int) -> Examples:
    windows = sliding_window_view(blocks, dim + 1, axis=1)[:, ::STRIDE].reshape(-1, dim + 1)
    return Examples.of(windows[:, :-1], windows[:, -1], dtype=np.int64)
