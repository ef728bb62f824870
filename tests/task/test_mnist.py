import json

import numpy as np

from flserve_app.task import TaskSpec, task_data


def test_mnist5k_is_five_thousand_real_images_between_0_and_1():
    task = task_data(TaskSpec(name="mnist5k", seed=3))
    assert task.input_shape == (1, 28, 28)
    assert (len(task.train), len(task.test)) == (4000, 1000)
    labels = np.concatenate([task.train.labels, task.test.labels])
    assert np.bincount(labels).tolist() == [500] * 10
    assert (task.train.inputs.min(), task.train.inputs.max()) == (0, 1)
    assert 0.1 < task.train.inputs.mean() < 0.16
    json.dumps(dict(task.preprocessing))


def test_the_seed_picks_the_test():
    one, two = (task_data(TaskSpec(name="mnist5k", seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one.test.inputs, two.test.inputs)
