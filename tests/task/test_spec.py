import pytest

from flserve_app.errors import TaskError
from flserve_app.task import TaskSpec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_clients": 0}, "num_clients must be at least 1, found 0"),
        ({"num_clients": 1 << 21}, "num_clients is 2097152, at most 1048576"),
        ({"n": -1}, "n must be at least 1, found -1"),
        ({"dim": 0}, "dim must be at least 1"),
        ({"classes": 1}, "classes must be at least 2, found 1"),
        ({"min_size": 0}, "min_size must be at least 1"),
        ({"n": 1 << 20, "dim": 1 << 20}, "num_clients \\* n \\* dim is over"),
        ({"scheme": "shards"}, "unknown partition scheme 'shards'; known: iid, dirichlet"),
        ({"alpha": 0.0}, "alpha must be a finite number above 0, found 0.0"),
        ({"alpha": float("nan")}, "alpha must be a finite number above 0, found nan"),
        ({"val_fraction": 1.0}, "val_fraction must be in \\[0, 1\\), found 1.0"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(TaskError, match=message):
        TaskSpec(**values)


def test_equal_specs_share_a_cache_entry():
    assert hash(TaskSpec(alpha=1)) == hash(TaskSpec(alpha=1.0))
    assert TaskSpec(seed=1) != TaskSpec(seed=2)
