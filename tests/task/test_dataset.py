import numpy as np
import pytest

from flserve_app.errors import TaskError
from flserve_app.task import Examples, Task


def examples(labels=(0, 1, 1), width=2):
    return Examples.of(np.arange(len(labels) * width).reshape(-1, width), labels)


def test_examples_are_cast_copied_and_read_only():
    inputs = np.arange(6, dtype=np.float64).reshape(3, 2)
    made = Examples.of(inputs, [0, 1, 1])
    inputs[0, 0] = 99
    assert made.inputs.dtype == np.float32
    assert made.labels.dtype == np.int64
    assert made.inputs[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        made.labels[0] = 3


def test_take_picks_rows_in_order():
    taken = examples().take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.inputs.tolist() == [[4, 5], [0, 1]]
    assert taken.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 1)), np.zeros(2, np.int64), "examples are float32 and int64, found float64 and int64"),
        (np.zeros((2, 1), np.float32), np.zeros(2), "found float32 and float64"),
        (np.zeros((2, 1), np.float32), np.zeros(3, np.int64), r"shape \(2, 1\) do not fit labels of shape \(3,\)"),
        (np.zeros(2, np.float32), np.zeros(2, np.int64), r"shape \(2,\) do not fit"),
    ],
)
def test_arrays_that_are_no_examples_are_refused(inputs, labels, message):
    with pytest.raises(TaskError, match=message):
        Examples(inputs, labels)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (examples(width=3), r"task 'toy': inputs are \(3,\), not \(2,\)"),
        (examples(labels=(0, 2)), "task 'toy': a label is outside of the 2 classes"),
        (examples(labels=(-1, 0)), "a label is outside"),
    ],
)
def test_a_task_refuses_examples_that_do_not_fit(test, message):
    with pytest.raises(TaskError, match=message):
        Task(name="toy", input_shape=(2,), classes=("a", "b"), train=examples(), test=test, preprocessing={})
