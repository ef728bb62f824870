"""A Flower Array over a tensor that is in memory.

Flower's own Array is its serialised bytes: an app that trains on a model parses them, and what it trained is
serialised again. Between a payload and an app of the same process nobody needs these bytes. This Array makes
them only when somebody asks, and from then on it is what Flower's own would be: equal, and sent or pickled as
one.
"""

from __future__ import annotations

from functools import cached_property
from io import BytesIO
from typing import Any, final

import numpy as np
from flwr.app import Array

from flserve_app.artifact import byte_view

NUMPY_STYPE = "numpy.ndarray"

NDArray = np.ndarray[Any, np.dtype[Any]]


@final
class TensorArray(Array):
    """An Array of serialisation `numpy.ndarray`; records take nothing but Arrays, so it is one.

    Args:
        values: C-contiguous, of any dtype and shape; nobody may write to them as long as the Array is in use.
    """

    def __init__(self, values: NDArray) -> None:
        # Not the parent's: that wants the bytes.
        self.dtype = str(values.dtype)
        self.shape = tuple(values.shape)
        self.stype = NUMPY_STYPE
        self._values = values

    @property
    def values(self) -> NDArray:
        """The values, not to be written to."""
        return self._values

    @property
    def serialised_bytes(self) -> int:
        """Length of `data`, which is not made for it."""
        return len(self._head) + self._values.nbytes

    @property
    def head(self) -> bytes:
        """What stands before the values in `data`."""
        return self._head

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The .npy stream."""
        return self._plain.data

    @property
    def children(self) -> dict[str, Any]:
        """The chunks that Flower sends."""
        return self._plain.children

    def numpy(self) -> NDArray:
        """Return a copy that the caller may write to."""
        return self._values.copy()

    def slice_array(self) -> list[tuple[str, Any]]:
        """Return the chunks that Flower sends."""
        return self._plain.slice_array()

    def deflate(self) -> bytes:
        """Return what Flower sends; it names the kind of an object by its class."""
        return self._plain.deflate()

    def __eq__(self, other: object) -> bool:
        """Whether the other is an Array of the same bytes."""
        return self._plain == (other._plain if isinstance(other, TensorArray) else other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as Flower's own Array, which any receiver has."""
        return Array, (self.dtype, self.shape, self.stype, self.data)

    @cached_property
    def _head(self) -> bytes:
        head = BytesIO()
        np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(self._values))
        return head.getvalue()

    @cached_property
    def _plain(self) -> Array:
        data = b"".join((self._head, byte_view(self._values)))
        return Array(self.dtype, self.shape, self.stype, data)


def serialised_bytes(array: Array) -> int:
    """Return the length of an Array's data in bytes."""
    return array.serialised_bytes if isinstance(array, TensorArray) else len(array.data)


def stream_of(array: Array) -> tuple[memoryview, memoryview]:
    """Return an Array's data in two parts, of which the first may be empty; they are not made for it."""
    if isinstance(array, TensorArray):
        return memoryview(array.head), byte_view(array.values)
    return memoryview(b""), memoryview(array.data)
