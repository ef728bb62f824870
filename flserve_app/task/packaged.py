"""Tables of whole numbers that an installed package ships.

They are read as files: importing the package would cost up to half a second, and its reader more.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from flserve_app.errors import MissingExtra, TaskError
from flserve_app.task.kept import kept


def packaged_table(package: str, path: str, *, columns: int, advice: str) -> npt.NDArray[np.uint8]:
    """Return a table of numbers from 0 to 255, uint8 of shape (rows, columns).

    Args:
        package: Import name of a top-level package.
        path: A gzipped CSV file inside of it.
        columns: Numbers in a row.
        advice: How to install the package.

    Raises:
        MissingExtra: If the package is not installed.
        TaskError: If it has no such table.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(f"the data comes with {package}, which is not installed: {advice}")
    file = Path(spec.submodule_search_locations[0], path)
    try:
        packed = file.read_bytes()
        return kept(
            {"table": hashlib.sha256(packed).hexdigest(), "columns": columns},
            lambda: {"table": _parsed(packed, columns)},
        )["table"]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise TaskError(f"{file} is no table of {columns} columns: {error}") from error


def _parsed(packed: bytes, columns: int) -> npt.NDArray[np.uint8]:
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    table: npt.NDArray[np.uint8] = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    if table.shape[1] != columns:
        raise ValueError(f"found {table.shape[1]} columns")
    return table
