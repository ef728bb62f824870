import json
from itertools import pairwise

import numpy as np
import pytest

from flserve_app.errors import TaskError
from flserve_app.task import TaskSpec, client_data, task_data

SPEC = TaskSpec(name="chars", seed=3, dim=32)


def read(numbers, classes):
    return "".join(classes[number] for number in numbers)


def test_the_text_is_the_play_on_every_machine():
    task = task_data(SPEC)
    assert task.preprocessing["text_sha256"] == "82e3e25af87d82de7626d65502d431e445088f192cd84b8f5918442a47562bc3"
    assert len(task.classes) == 64
    assert task.classes[:4] == ("\n", " ", "!", "&")
    json.dumps(dict(task.preprocessing))


def test_windows_are_int64_and_labelled_with_the_character_after_them():
    task = task_data(SPEC)
    assert task.input_dtype == "int64"
    assert task.input_shape == (32,)
    assert (len(task.train), len(task.test)) == (26288, 2976)
    texts = [read(row, task.classes) for row in task.train.inputs[:9]]
    assert all(one[4:] == two[:28] for one, two in pairwise(texts))
    assert task.classes[task.train.labels[0]] == texts[1][28]


def test_no_window_of_the_test_overlaps_one_of_training():
    task = task_data(SPEC)
    trained = {window.tobytes() for window in task.train.inputs}
    again = sum(window.tobytes() in trained for window in task.test.inputs)
    assert again <= 3  # the play repeats a few stage directions


def test_the_seed_picks_the_test_and_the_window_may_be_longer():
    assert not np.array_equal(task_data(SPEC).test.inputs, task_data(TaskSpec(name="chars", seed=4)).test.inputs)
    assert task_data(TaskSpec(name="chars", seed=3, dim=256)).input_shape == (256,)


def test_clients_keep_the_dtype():
    train, validation = client_data(TaskSpec(name="chars", seed=3, val_fraction=0.1), 2)
    assert train.inputs.dtype == validation.inputs.dtype == np.int64


def test_a_window_over_its_bound_is_refused():
    with pytest.raises(TaskError, match="task 'chars': dim is 257, a window has at most 256 characters"):
        task_data(TaskSpec(name="chars", dim=257))
