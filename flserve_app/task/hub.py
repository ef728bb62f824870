"""Any image classification data set of the Hugging Face Hub, or a local folder that `datasets` can load.

A data set becomes uint8 pixels once a machine; these are kept (see `kept`), but for local folders, whose content
may change. The Hub is asked once, briefly, before anything is downloaded: without a network `datasets` alone
would try for twenty seconds. With HF_HUB_OFFLINE=1 it takes what was downloaded before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flserve_app.errors import TaskError
from flserve_app.task.dataset import Examples, Task
from flserve_app.task.kept import Arrays, kept
from flserve_app.task.seeds import stream
from flserve_app.task.source import HubSource
from flserve_app.task.spec import MAX_VALUES, TaskSpec

TEST_FRACTION = 0.2
SECONDS = 5.0
_LEVELS = 255.0


def load_hub(spec: TaskSpec) -> Task:
    """Return the images, scaled to [0, 1], inputs of shape (channels, side, side).

    Raises:
        TaskError: If the data set cannot be reached or does not have what `spec.hub` names.
    """
    source = spec.hub
    if source is None:
        raise TaskError("task 'hub' needs a data set: task.hub.dataset=ylecun/mnist")
    local = Path(source.dataset).expanduser().is_dir()
    arrays = _derived(source, local) if local else kept({"hub": asdict(source)}, lambda: _derived(source, local))
    facts: dict[str, Any] = json.loads(arrays["facts"].tobytes())
    train = _examples(arrays["train_pixels"], arrays["train_labels"])
    if source.test_split:
        test = _examples(arrays["test_pixels"], arrays["test_labels"])
    else:
        train, test = train.hold_out(stream(spec.seed, "hub").permutation(len(train)), TEST_FRACTION)
    return Task(
        name="hub",
        input_shape=(source.channels, source.side, source.side),
        classes=tuple(facts["classes"]),
        train=train,
        test=test,
        preprocessing={
            "raw": f"levels 0 to 255, {source.side}x{source.side} pixels, {'grey' if source.channels == 1 else 'RGB'}",
            "scale": 1 / _LEVELS,
            "offset": 0.0,
            "dataset": source.dataset,
            "revision": facts["revision"],
        },
    )


def _examples(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Examples:
    return Examples.of(pixels / np.float32(_LEVELS), labels)


def _derived(source: HubSource, local: bool) -> Arrays:
    revision = source.revision if local else _revision(source)
    arrays: dict[str, npt.NDArray[Any]] = {}
    classes: list[str] = []
    for part, split in (("train", source.train_split), ("test", source.test_split)):
        if split:
            loaded = _loaded(source, split, revision)
            # The first split names the classes, so that a number means the same in both.
            classes = classes or _classes(source, loaded)
            arrays[f"{part}_pixels"] = _pixels(source, split, loaded)
            arrays[f"{part}_labels"] = _labels(source, split, loaded, classes)
    facts = json.dumps({"classes": classes, "revision": revision}).encode()
    return {**arrays, "facts": np.frombuffer(facts, dtype=np.uint8)}


def _revision(source: HubSource) -> str:
    """Return the commit to load, so that both splits are of one; empty where the Hub is not to be asked."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return source.revision
    try:
        return HfApi().dataset_info(source.dataset, revision=source.revision or None, timeout=SECONDS).sha or ""
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        named = f"{source.dataset!r}" + (f" at revision {source.revision!r}" if source.revision else "")
        raise TaskError(f"there is no data set {named} on the Hub, and no local folder of that name") from error
    except Exception as error:
        raise TaskError(
            f"cannot reach the Hub for data set {source.dataset!r} ({_line(error)}); if it was downloaded before, "
            "set HF_HUB_OFFLINE=1"
        ) from error


def _loaded(source: HubSource, split: str, revision: str) -> Any:
    # Imported here: it takes more than a second, and once the pixels are kept nobody needs it.
    import datasets

    path = str(Path(source.dataset).expanduser()) if Path(source.dataset).expanduser().is_dir() else source.dataset
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(path, source.subset or None, split=split, revision=revision or None)
    except Exception as error:
        raise TaskError(f"cannot load split {split!r} of data set {source.dataset!r}: {_line(error)}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()
    for column in (source.image_column, source.label_column):
        if column not in loaded.column_names:
            raise TaskError(
                f"data set {source.dataset!r} has no column {column!r}; found: {', '.join(loaded.column_names)}"
            )
    if len(loaded) * source.channels * source.side**2 > MAX_VALUES:
        raise TaskError(f"split {split!r} of data set {source.dataset!r} has over {MAX_VALUES} values; shrink `side`")
    return loaded


def _pixels(source: HubSource, split: str, loaded: Any) -> npt.NDArray[np.uint8]:
    """Return uint8 pixels of shape (n, channels, side, side)."""
    from PIL import Image

    mode, shape = ("L" if source.channels == 1 else "RGB"), (source.side, source.side)
    pixels = np.empty((len(loaded), *shape, source.channels), dtype=np.uint8)
    try:
        for row, image in enumerate(_values(loaded, source.image_column)):
            if not isinstance(image, Image.Image):
                raise TypeError(f"column {source.image_column!r} holds {type(image).__name__}, not images")
            pixels[row] = np.asarray(image.convert(mode).resize(shape)).reshape(pixels.shape[1:])
    except (OSError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise TaskError(f"split {split!r} of data set {source.dataset!r}: {_line(error)}") from error
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _classes(source: HubSource, loaded: Any) -> list[str]:
    """Return the names that the column declares, or its sorted values."""
    names = getattr(loaded.features[source.label_column], "names", None)
    return [str(name) for name in (names or sorted(loaded.unique(source.label_column), key=_sort_key))]


def _labels(source: HubSource, split: str, loaded: Any, classes: list[str]) -> npt.NDArray[np.int64]:
    column = list(_values(loaded, source.label_column))
    if getattr(loaded.features[source.label_column], "names", None):
        return np.asarray(column, dtype=np.int64)
    numbers: Mapping[str, int] = {name: number for number, name in enumerate(classes)}
    unknown = sorted({str(value) for value in column} - numbers.keys())
    if unknown:
        raise TaskError(f"split {split!r} of data set {source.dataset!r} has labels beyond the others': {unknown[:3]}")
    return np.array([numbers[str(value)] for value in column], dtype=np.int64)


def _values(loaded: Any, column: str) -> Iterable[Any]:
    return (row[column] for row in loaded.select_columns([column]))


def _sort_key(value: object) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _line(error: BaseException) -> str:
    """Return the first line of a foreign error, which may have many."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
