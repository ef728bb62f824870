"""Artifacts to test codecs with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.random import RandomState

from flserve_app.artifact import DTYPES, Artifact

SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (5, 3), (20, 17), (4, 3, 3, 3)]


def bits(dtype: str, shape: tuple[int, ...], data: bytes):
    """An array of any bits: NaN payloads, subnormals, infinities."""
    storage = DTYPES[dtype].storage
    raw = np.frombuffer(data, np.uint8) & (1 if dtype == "bool" else 0xFF)
    return raw.astype(np.uint8).view(storage).reshape(shape)


@st.composite
def tensors(draw, dtypes=tuple(DTYPES), shapes=tuple(SHAPES)):
    dtype, shape = draw(st.sampled_from(dtypes)), draw(st.sampled_from(shapes))
    nbytes = int(np.prod(shape)) * DTYPES[dtype].storage.itemsize
    random = RandomState(draw(st.integers(0, 2**32 - 1)))
    style = draw(st.sampled_from(["any", "zero", "few"]))
    data = random.randint(0, {"any": 256, "zero": 1, "few": 2}[style], nbytes, dtype=np.uint8).tobytes()
    return dtype, bits(dtype, shape, data)


def artifact_of(named) -> Artifact:
    return Artifact({n: array for n, (_, array) in named.items()}, dtypes={n: dtype for n, (dtype, _) in named.items()})


@st.composite
def artifacts(draw):
    return artifact_of(draw(st.dictionaries(st.text("abc.é", min_size=1, max_size=4), tensors(), max_size=4)))


@st.composite
def pairs(draw):
    """A base, and a target that keeps, moves, replaces, drops and adds tensors."""
    named = draw(st.dictionaries(st.sampled_from("abcd"), tensors(), max_size=4))
    target = {}
    for name, (dtype, array) in named.items():
        change = draw(st.sampled_from(["keep", "nudge", "replace", "drop", "reshape"]))
        if change == "keep":
            target[name] = dtype, array
        elif change == "nudge":
            target[name] = dtype, nudged(dtype, array, draw(st.integers(0, 99)))
        elif change == "replace":
            target[name] = draw(tensors())
        elif change == "reshape":
            target[name] = dtype, array.reshape(-1)
    if draw(st.booleans()):
        target["new"] = draw(tensors())
    return artifact_of(named), artifact_of(target)


@st.composite
def repeated_pairs(draw):
    """A base and a target in which tensors stand under several names; some only in one of the two."""
    base, target = draw(pairs())
    sides = []
    for artifact in (base, target):
        named = {name: (spec.dtype, artifact[name]) for name, spec in artifact.specs.items()}
        for name in draw(st.lists(st.sampled_from("uvwxyz"), max_size=4)) if named else ():
            named[name] = named[draw(st.sampled_from(sorted(named)))]
        order = draw(st.permutations(sorted(named)))
        sides.append(artifact_of({name: named[name] for name in order}))
    return sides[0], sides[1]


def nudged(dtype: str, array, seed: int, most: int = 5):
    """The same array with every word moved by a few units."""
    word = DTYPES[dtype].word
    words = array.reshape(-1).view(word)
    moves = RandomState(seed).randint(0, 2 if dtype == "bool" else most, words.size).astype(word)
    moved = words ^ moves if dtype == "bool" else words + moves
    return moved.astype(word).view(array.dtype).reshape(array.shape)


def network(seed: int, *, rows: int = 96, columns: int = 64) -> dict[str, np.ndarray]:
    """Weights of a small network, float32."""
    random = RandomState(seed)
    return {
        "conv.weight": random.normal(0, 0.1, (8, 4, 3, 3)).astype("f4"),
        "conv.bias": np.zeros(8, "f4"),
        "norm.running_var": np.ones(8, "f4"),
        "norm.num_batches_tracked": np.array(seed, "i8"),
        "fc.weight": random.normal(0, 0.05, (rows, columns)).astype("f4"),
        "fc.bias": random.normal(0, 0.05, rows).astype("f4"),
    }


def trained(base: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The network a round later: rows and columns move by different scales, the norm's buffers by one."""
    random = RandomState(1000 + seed)
    out = {}
    for name, array in base.items():
        if array.dtype.kind == "i":
            out[name] = array + 1
            continue
        move = random.normal(0, 3e-4, array.shape)
        if array.ndim > 1:
            move *= 2.0 ** random.randint(-4, 3, array.shape[:1]).reshape(-1, *[1] * (array.ndim - 1))
        out[name] = (array + move).astype("f4")
    return out


def halved(network: dict[str, np.ndarray]) -> Artifact:
    """The network with its floats cut to bfloat16."""
    arrays = {n: (a.view("<u4") >> 16).astype("<u2") if a.dtype.kind == "f" else a for n, a in network.items()}
    return Artifact(arrays, dtypes={n: "bfloat16" for n, a in network.items() if a.dtype.kind == "f"})
