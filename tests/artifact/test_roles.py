import numpy as np

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import kept_exact, roles

MODEL = Artifact(
    {
        "conv.weight": np.zeros((2, 2), "f4"),
        "bn.running_mean": np.zeros(2, "f4"),
        "bn.running_var": np.zeros(2, "f4"),
        "bn.num_batches_tracked": np.array(3, "i8"),
        "mask": np.ones(3, bool),
        "head.weight": np.zeros(2, "<u2"),
        "phase": np.zeros(2, "c8"),
    },
    dtypes={"head.weight": "bfloat16"},
)


def test_roles_come_from_names_and_dtypes():
    assert roles(MODEL) == {
        "conv.weight": "weight",
        "bn.running_mean": "statistic",
        "bn.running_var": "statistic",
        "bn.num_batches_tracked": "buffer",
        "mask": "buffer",
        "head.weight": "weight",
        "phase": "buffer",
    }
    assert kept_exact(MODEL) == set(MODEL) - {"conv.weight", "head.weight"}


def test_patterns_may_be_the_callers_and_the_first_decides():
    mine = {"head.*": "statistic", "*.weight": "weight", "conv.*": "buffer"}
    assert roles(MODEL, mine)["head.weight"] == "statistic"
    assert roles(MODEL, mine)["conv.weight"] == "weight"
    assert roles(MODEL, mine)["bn.running_mean"] == "weight"
