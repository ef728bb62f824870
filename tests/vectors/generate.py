"""Golden payloads of format version 1: `python -m tests.vectors.generate` writes them, `--check` compares.

Each vector is a payload and what it must lead to. The target's digest must come out of every release. The
bytes must come out again only with the same versions of the entropy coders, which `index.json` names.
A change of these files is a change of the format: review it as such.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from flserve_app.artifact import DTYPES, Artifact
from flserve_app.codec import CODECS, Codec, decode, encode, inspect
from flserve_app.codec.codecs import Pair, on_grids
from flserve_app.codec.grid import GRID_DELTA
from flserve_app.codec.grouping import Grouping
from flserve_app.codec.ops import BINS, BINS_DELTA, PLANES, PLANES_DELTA, Layout, ResidualOp

FOLDER = Path(__file__).parent
CODERS = ("pcodec", "zstandard")


def build() -> Iterator[tuple[str, Artifact, Artifact | None, str | Codec]]:
    """Yield name, target, base and codec of each vector."""
    base, target = _model()
    yield "base", base, None, "full"
    yield "lossless", target, base, "lossless"
    yield "lossless-small", target, base, "lossless-small"
    yield "same", base, base, "lossless"
    yield "structure", _rebuilt(base), base, "lossless"
    yield "dtypes", _all_dtypes(), None, "full"
    tied_base, tied = _tied()
    yield "tied-full", tied_base, None, "full"
    yield "tied", tied, tied_base, "lossless"
    square_base, square = _square()
    for op in (PLANES, BINS):
        yield op.name, square, None, _only(op, lambda pair: Grouping())
    yield PLANES_DELTA.name, square, square_base, _only(PLANES_DELTA, lambda pair: Grouping())
    yield BINS_DELTA.name, square, square_base, _only(BINS_DELTA, lambda pair: Grouping(row=1))
    yield f"{BINS_DELTA.name}-scaled", square, square_base, _only(BINS_DELTA, _scaled)
    sorted_base, sorted_target = _sorted_steps()
    yield f"{GRID_DELTA.name}-sorted", sorted_target, sorted_base, _stepped_with(_scaled)
    fine = {"w": 5 * 2.0**-12}
    yield f"{GRID_DELTA.name}-fine", *_fine(fine["w"]), on_grids(CODECS["lossless-small"], fine)
    for form, (target, base) in _stepped().items():
        yield f"{GRID_DELTA.name}-{form}", target, base, on_grids(CODECS["lossless-small"], {"w": 2.0**-10})


def check() -> None:
    """Compare what this release makes and reads with the files.

    Raises:
        SystemExit: If they differ.
    """
    index = json.loads((FOLDER / "index.json").read_text())
    same_coders = index["coders"] == {name: version(name) for name in CODERS}
    for name, target, base, codec in build():
        entry, stored = index["vectors"][name], (FOLDER / f"{name}.flsv").read_bytes()
        if decode(stored, base).digest != entry["target"] or target.digest != entry["target"]:
            raise SystemExit(f"{name}: decodes to another artifact than {entry['target']}")
        if same_coders and (encode(target, base, codec) != stored or _entry(stored, base) != entry):
            raise SystemExit(f"{name}: encodes to other bytes than {name}.flsv")


def write() -> None:
    """Write all files anew."""
    vectors = {}
    for name, target, base, codec in build():
        payload = encode(target, base, codec)
        (FOLDER / f"{name}.flsv").write_bytes(payload)
        vectors[name] = _entry(payload, base)
    index = {"coders": {name: version(name) for name in CODERS}, "vectors": vectors}
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def bases() -> dict[str, Artifact | None]:
    """Return the base that each vector needs."""
    return {name: base for name, _, base, _ in build()}


def _entry(payload: bytes, base: Artifact | None) -> dict[str, object]:
    info = inspect(payload)
    ops = [tensor.op for tensor in info.tensors]
    return {"bytes": len(payload), "base": info.base, "target": info.target, "codec": info.codec, "ops": ops}


def _only(op: ResidualOp, grouping: Callable[[Pair], Grouping]) -> Codec:
    def offers(pair: Pair) -> list[Layout]:
        return [op.layout(pair.dtype, grouping(pair))]

    return Codec(name="only", number=CODECS["lossless"].number, offers=offers)


def _stepped_with(grouping: Callable[[Pair], Grouping]) -> Codec:
    def offers(pair: Pair) -> list[Layout]:
        words = pair.target.size
        return [GRID_DELTA.layout(pair.dtype, 2.0**-10, row=pair.row, words=words, grouping=grouping(pair))]

    return Codec(name="only", number=CODECS["grid"].number, offers=offers)


def _scaled(pair: Pair) -> Grouping:
    # Scales by hand: those of a release come from floating-point sums and may differ between processors.
    rows = bytes(0 if row % 4 == 0 else 196 for row in range(pair.target.size // pair.row))
    return Grouping(row=pair.row, scales=rows + bytes(column % 3 for column in range(pair.row)))


def _floats(seed: int, *shape: int) -> np.ndarray:
    # Built from integers: floating-point generators may differ in the last bit between platforms.
    return (RandomState(seed).randint(-4000, 4000, shape) / 2.0**14).astype("<f4")


def _moved(array: np.ndarray, seed: int) -> np.ndarray:
    moves = RandomState(seed).randint(-300, 300, array.shape).astype("<i4")
    return (array.view("<i4") + moves).view("<f4")


def _model() -> tuple[Artifact, Artifact]:
    old = {"fc.weight": _floats(1, 6, 4), "fc.bias": _floats(2, 6), "steps": np.array(7, "<i8")}
    new = {"fc.weight": _moved(old["fc.weight"], 3), "fc.bias": old["fc.bias"], "steps": np.array(8, "<i8")}
    return Artifact(old), Artifact(new)


def _rebuilt(base: Artifact) -> Artifact:
    moved = _moved(base["fc.weight"], 4)
    return Artifact({"fc.weight": moved.reshape(4, 6), "fc.bias": base["fc.bias"].astype("<f8"), "é": base["steps"]})


def _tied() -> tuple[Artifact, Artifact]:
    """Return a model that lists its embedding three times, and the same one moved, one head of its own by then."""
    old, moved = _floats(14, 6, 8), _moved(_floats(14, 6, 8), 15)
    base = {"embed": old, "head": old, "layer": _floats(16, 4), "other": old, "empty": old[:0], "none": old[:0]}
    return Artifact(base), Artifact({**base, "embed": moved, "head": moved, "other": _moved(old, 17)})


def _all_dtypes() -> Artifact:
    arrays = {}
    for name, dtype in DTYPES.items():
        data = RandomState(5).randint(0, 2 if name == "bool" else 256, 2 * dtype.storage.itemsize, dtype=np.uint8)
        arrays[name] = data.view(dtype.storage)
    return Artifact({**arrays, "empty": np.empty((0, 3), "<f4")}, dtypes={"bfloat16": "bfloat16"})


def _square() -> tuple[Artifact, Artifact]:
    """Return a tensor just large enough for scales, in bfloat16, and the same one moved by rows."""
    old = _floats(6, 16, 32).view("<u4") >> 16
    moves = RandomState(7).randint(0, 4, old.shape) * (np.arange(16) % 4 == 0)[:, None]
    arrays = [{"w": words.astype("<u2")} for words in (old, old + moves)]
    first, second = (Artifact(each, dtypes={"w": "bfloat16"}) for each in arrays)
    return first, second


def _sorted_steps() -> tuple[Artifact, Artifact]:
    """Return a tensor, and the same one moved by many steps of 2**-10, every fourth row further."""
    old, far = _floats(10, 64, 128), (np.arange(64) % 4 == 0)[:, None]
    steps = RandomState(11).randint(-3, 4, old.shape) * (1 + 15 * far)
    return Artifact({"w": old}), _added(old, steps)


def _stepped() -> dict[str, tuple[Artifact, Artifact]]:
    """Return a target for each form of `grid-delta`, some steps of 2**-10 from its base."""
    old, random = _floats(8, 24, 32), RandomState(9)
    few = random.randint(0, 100, old.shape) < 2
    some = (np.arange(24) % 6 == 0)[:, None] & (np.arange(32) % 5 == 0) & (random.randint(0, 8, old.shape) > 0)
    signs = random.randint(0, 2, old.shape) * 2 - 1
    steps = {
        "dense": random.randint(-40, 40, (8, 32)),
        "wide": random.randint(-40000, 40000, (8, 32)),
        "plain": few * signs * random.randint(1, 4, old.shape),
        "crossed": some * signs,
    }
    vectors = {
        form: (_added(old[: len(each)], each), Artifact({"w": old[: len(each)]})) for form, each in steps.items()
    }
    plain, _ = vectors["plain"]
    off = plain["w"].copy()
    off.view("<u4")[5:9, ::7] += np.arange(5, dtype="<u4")
    return {**vectors, "patched": (Artifact({"w": off}), Artifact({"w": old}))}


def _fine(step: float) -> tuple[Artifact, Artifact]:
    """Return a target some steps, no power of two, from its base."""
    old = _floats(12, 8, 32)
    counts = RandomState(13).randint(-40, 40, old.shape)
    return Artifact({"w": (old + counts * step).astype("<f4")}), Artifact({"w": old})


def _added(old: np.ndarray, steps: np.ndarray) -> Artifact:
    return Artifact({"w": (old + steps / 2.0**10).astype("<f4")})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if parser.parse_args().check:
        check()
    else:
        write()
