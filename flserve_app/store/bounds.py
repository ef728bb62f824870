"""What a version may say: bounds that hold for whatever comes into a catalog, published here or taken in.

What is admitted is read by every command from then on and is written into bundles, which others take in by the same
bounds. So numbers are small and whole or finite, names are plain (see `text`), and JSON is shallow and short. The
one thing that need not be plain is a class of one character: models of text have a line break among their classes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from flserve_app.errors import StoreError
from flserve_app.store.version import Draft, Serving
from flserve_app.text import is_plain, plain

MAX_NUMBER = (1 << 31) - 2  # of a version or a round
MAX_BYTES = 1 << 46  # of an artifact or a payload
MAX_METRICS = 1024  # of one version
MAX_SERVING_BYTES = 4 << 20  # of JSON
MAX_DEPTH = 32  # of JSON
MAX_TEXT = 1000  # characters of a text in it
_JOINERS = {0x200C: None, 0x200D: None}
MOST_OF_A_TENSOR = 1000  # characters of its name
_MAX_INTEGER = 1 << 63
_CODEC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SERVING = {"model_id": str, "arguments": dict, "inputs": list, "outputs": list, "classes": list, "preprocessing": dict}


def check_draft(draft: Draft) -> None:
    """Check what a version says before it gets a number.

    Raises:
        StoreError: If something is out of bounds.
    """
    check_number("round", draft.round)
    if draft.parent is not None:
        check_number("parent", draft.parent)
    check_bytes(draft.nbytes)
    check_codec(draft.codec)
    check_metrics(draft.metrics)
    if draft.serving is not None:
        read_serving(serving_to_json(draft.serving))


def check_publication(draft: Draft, tensors: Iterable[str]) -> None:
    """Check what a version says, and the names of its tensors. Raises StoreError."""
    check_draft(draft)
    check_tensor_names(tensors)


def check_tensor_names(names: Iterable[str]) -> None:
    """Check that tensors have names that can be shown.

    Raises:
        StoreError: If one has not.
    """
    for name in names:
        if not is_plain(name, MOST_OF_A_TENSOR):
            raise StoreError(
                f"a tensor's name is 1 to {MOST_OF_A_TENSOR} printable characters, found {plain(name, 140)!r}"
            )


def check_number(what: str, number: object) -> int:
    """Return the number of a version or a round. Raises StoreError if it is none."""
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise StoreError(f"{what} must be 0 to {MAX_NUMBER}, found {plain(number, 80)}")
    return number


def check_bytes(size: object) -> int:
    """Return a size. Raises StoreError if it is none."""
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise StoreError(f"a size is 0 to {MAX_BYTES} bytes, found {plain(size, 80)!r}")
    return size


def check_codec(name: object) -> str:
    """Return a codec's name. Raises StoreError if it is not plain."""
    if not isinstance(name, str) or _CODEC.fullmatch(name) is None:
        raise StoreError(f"a codec's name is plain, found {plain(name, 80)!r}")
    return name


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Check that metrics are not too many, have plain names and are real numbers. Raises StoreError."""
    if len(metrics) > MAX_METRICS:
        raise StoreError(f"a version has at most {MAX_METRICS} metrics, found {len(metrics)}")
    for name, value in metrics.items():
        if not isinstance(name, str) or not is_plain(name):
            raise StoreError(f"a metric's name is 1 to 200 printable characters, found {plain(name, 80)!r}")
        try:
            float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"metric {name!r} must be a number, found {plain(value, 80)!r}") from error


def read_serving(value: object) -> Serving:
    """Return what serving takes from a JSON object.

    Raises:
        StoreError: If it is something else, or out of bounds.
    """
    serving = parse_serving(value)
    _check_text("a model's id", serving.model_id)
    _check_json((serving.arguments, serving.inputs, serving.outputs, serving.preprocessing), 0)
    for name in serving.classes:
        # Joiners are spelling, as in Persian and in emoji, and a token may begin with a space.
        bare = name.translate(_JOINERS).strip(" ")
        if len(bare) > 1 or "\ud800" <= bare <= "\udfff":
            _check_text("a class", bare)
    size = len(json.dumps(value, separators=(",", ":")))
    if size > MAX_SERVING_BYTES:
        raise StoreError(f"what serving takes has {size} bytes of JSON, at most {MAX_SERVING_BYTES} are allowed")
    return serving


def parse_serving(value: object) -> Serving:
    """Return what serving takes from a JSON object of the right form, whatever it holds. Raises StoreError."""
    if (
        not isinstance(value, dict)
        or {name: type(item) for name, item in value.items()} not in (_SERVING, {**_SERVING, "seed": int})
        or not all(isinstance(name, str) for name in value["classes"])
    ):
        raise StoreError("what serving takes does not hold together")
    tuples = {name: tuple(value[name]) for name in ("inputs", "outputs", "classes")}
    return Serving(**{**value, **tuples})


def serving_to_json(serving: Serving) -> dict[str, Any]:
    """Return what serving takes as a JSON object, without a seed if there is none, as before there were any."""
    found = {one.name: getattr(serving, one.name) for one in fields(serving)}
    found |= {name: dict(found[name]) for name in ("arguments", "preprocessing")}
    found |= {name: list(found[name]) for name in ("inputs", "outputs", "classes")}
    return {name: value for name, value in found.items() if name != "seed" or value is not None}


def _check_json(value: object, depth: int) -> None:
    match value:
        case dict() | list() | tuple() if depth > MAX_DEPTH:
            raise StoreError(f"what serving takes is nested more than {MAX_DEPTH} deep")
        case dict():
            for name, item in value.items():
                _check_text("a name in what serving takes", name)
                _check_json(item, depth + 1)
        case list() | tuple():
            for item in value:
                _check_json(item, depth + 1)
        case str():
            _check_text("a text in what serving takes", value)
        case bool() | None:
            return
        case int() if abs(value) < _MAX_INTEGER:
            return
        case float() if math.isfinite(value):
            return
        case _:
            raise StoreError(f"what serving takes is not JSON with finite numbers: {plain(value, 80)!r}")


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str) or (text and not is_plain(text, MAX_TEXT)):
        raise StoreError(f"{what} is at most {MAX_TEXT} printable characters, found {plain(text, 80)!r}")
