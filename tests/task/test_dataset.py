import numpy as np
import pytest

from flserve_app.errors import TaskError
from flserve_app.task import Examples, Task


def examples(labels=(0, 1, 1), width=2):
    return Examples.of(np.arange(len(labels) * width).reshape(-1, width), labels)


def task(**values):
    values = {"train": examples(), "test": examples(), **values}
    return Task(name="toy", input_shape=(2,), classes=("a", "b"), preprocessing={}, **values)


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


def test_tokens_are_int64_and_stay_so():
    tokens = Examples.of([[0, 1], [1, 0]], [1, 0], dtype=np.int64)
    assert tokens.take(np.array([1])).inputs.dtype == np.int64
    assert task(train=tokens, test=tokens).input_dtype == "int64"
    assert task().input_dtype == "float32"


def test_a_share_is_held_out_from_the_start_of_an_order():
    train, test = examples(labels=(0, 1, 2, 3)).hold_out(np.array([3, 1, 0, 2]), 0.25)
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0, 2], [3])


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.zeros((2, 1)), np.zeros(2, np.int64), "examples are float32 or int64, and int64, found float64 and int64"),
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
        (Examples.of([[0, 1]], [0], dtype=np.int64), "task 'toy': inputs are float32 to train on, not to test"),
    ],
)
def test_a_task_refuses_examples_that_do_not_fit(test, message):
    with pytest.raises(TaskError, match=message):
        task(test=test)


@pytest.mark.parametrize("token", [-1, 2])
def test_a_task_refuses_tokens_beyond_its_classes(token):
    tokens = Examples.of([[0, token]], [0], dtype=np.int64)
    with pytest.raises(TaskError, match="task 'toy': a token is outside of the 2 classes"):
        task(train=tokens, test=tokens)
