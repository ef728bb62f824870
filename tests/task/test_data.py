import json
import subprocess
import sys

import numpy as np
import pytest

from flserve_app import task
from flserve_app.errors import TaskError
from flserve_app.task import TaskSpec, client_data, load_task


def as_rows(examples):
    return {(row.tobytes(), int(label)) for row, label in zip(examples.inputs, examples.labels, strict=True)}


def test_digits_are_real_images_between_0_and_1():
    digits = load_task("digits", seed=3, num_clients=10)
    assert digits.input_shape == (1, 8, 8)
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.train.inputs.min() == 0
    assert digits.train.inputs.max() == 1
    assert digits.classes == tuple("0123456789")
    assert set(digits.test.labels.tolist()) == set(range(10))
    json.dumps(digits.preprocessing)


def test_the_seed_decides_the_test_split_and_nothing_is_in_both_parts():
    one, two = load_task("digits", seed=1, num_clients=10), load_task("digits", seed=2, num_clients=10)
    assert as_rows(one.train) | as_rows(one.test) == as_rows(two.train) | as_rows(two.test)
    assert as_rows(one.test) != as_rows(two.test)
    assert not as_rows(one.train) & as_rows(one.test)


def test_synthetic_has_a_bump_of_2_where_the_class_says():
    made = load_task("synthetic", seed=42, num_clients=15, n=200, dim=8, classes=10)
    assert made.train.inputs.shape == (3000, 8)
    assert made.test.inputs.shape == (200, 8)
    for label in range(10):
        mean = made.train.inputs[made.train.labels == label].mean(axis=0)
        assert np.argmax(mean) == label % 8
        assert mean[label % 8] == pytest.approx(2.0, abs=0.25)
        assert np.delete(mean, label % 8) == pytest.approx(0.0, abs=0.25)


def test_synthetic_comes_from_the_frozen_stream():
    made = load_task("synthetic", seed=42, num_clients=2, n=4, dim=4)
    assert made.train.labels.tolist() == [8, 1, 9, 4, 2, 5, 9, 9]
    assert made.test.inputs[0] == pytest.approx([-1.9345036, -0.4023312, -0.3273576, 1.1588087], abs=1e-6)


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(TaskError, match="unknown task 'mnits'; known: digits, synthetic, mnist5k, hub, chars"):
        load_task("mnits", seed=0, num_clients=1)


@pytest.mark.parametrize("scheme", ["iid", "dirichlet"])
def test_clients_share_out_the_training_examples(scheme):
    spec = TaskSpec(name="synthetic", num_clients=4, n=30, dim=3, scheme=scheme, seed=5)
    parts = [client_data(spec, client)[0] for client in range(4)]
    assert sum(map(len, parts)) == 120
    assert set().union(*map(as_rows, parts)) == as_rows(task.task_data(spec).train)
    assert task.test_data(spec) is task.task_data(spec).test


def test_a_client_trains_on_all_it_has_unless_told_otherwise():
    train, validation = client_data(TaskSpec(name="synthetic", n=20), 3)
    assert train is validation
    assert len(train) == 20


@pytest.mark.parametrize(("fraction", "held_out"), [(0.2, 4), (0.001, 1), (0.999, 19)])
def test_a_validation_fraction_is_held_out(fraction, held_out):
    train, validation = client_data(TaskSpec(name="synthetic", n=20, val_fraction=fraction), 3)
    whole, _ = client_data(TaskSpec(name="synthetic", n=20), 3)
    assert (len(train), len(validation)) == (20 - held_out, held_out)
    assert as_rows(train) | as_rows(validation) == as_rows(whole)


def test_one_example_cannot_be_split():
    with pytest.raises(TaskError, match="partition 0 has 1 example: too few to hold some out"):
        client_data(TaskSpec(name="synthetic", n=1, val_fraction=0.5), 0)


@pytest.mark.parametrize("partition_id", [-1, 10])
def test_a_partition_that_does_not_exist_is_refused(partition_id):
    with pytest.raises(TaskError, match=f"partition {partition_id} does not exist: the task has 10"):
        client_data(TaskSpec(), partition_id)


def test_the_second_call_is_a_look_up():
    spec = TaskSpec(name="synthetic", n=5)
    assert client_data(spec, 2) is client_data(TaskSpec(name="synthetic", n=5), 2)
    assert task.task_data(spec) is task.task_data(TaskSpec(name="synthetic", n=5, scheme="dirichlet"))


def test_the_callers_random_state_is_left_alone():
    np.random.seed(7)
    expected = np.random.RandomState(7).random_sample()
    client_data(TaskSpec(name="synthetic", n=6, scheme="dirichlet", seed=99), 0)
    assert np.random.random_sample() == expected


FRESH = """
import sys
from flserve_app.task import TaskSpec, client_data
spec = TaskSpec(name="digits", scheme="dirichlet", seed=7)
print(client_data(spec, 3)[0].labels.tolist(), {"datasets", "flwr_datasets", "sklearn"} & set(sys.modules))
"""


def test_a_fresh_process_deals_nothing_again(tmp_path):
    expected = client_data(TaskSpec(scheme="dirichlet", seed=7), 3)[0].labels.tolist()  # leaves it on disk
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{expected} set()"


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, flserve_app.task as _; print({'torch', 'datasets', 'sklearn', 'flwr_datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
