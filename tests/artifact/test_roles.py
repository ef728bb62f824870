import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import NO_ROLES, Roles
from flserve_app.errors import ConfigError

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


def of(mapping):
    return Roles.from_pairs(mapping.items())


def test_roles_come_from_names_and_dtypes():
    assert NO_ROLES.of(MODEL) == {
        "conv.weight": "weight",
        "bn.running_mean": "statistic",
        "bn.running_var": "statistic",
        "bn.num_batches_tracked": "buffer",
        "mask": "buffer",
        "head.weight": "weight",
        "phase": "buffer",
    }
    assert NO_ROLES.exact(MODEL) == set(MODEL) - {"conv.weight", "head.weight"}
    assert NO_ROLES.private(MODEL) == ()


def test_the_users_patterns_come_before_the_built_in_ones_and_the_first_decides():
    mine = of({"head.*": "statistic", "*.weight": "weight", "bn.running_m*": "weight", "bn.*": "private"})
    assert mine.of(MODEL) == {
        "conv.weight": "weight",
        "bn.running_mean": "weight",
        "bn.running_var": "private",
        "bn.num_batches_tracked": "private",
        "mask": "buffer",
        "head.weight": "statistic",
        "phase": "buffer",
    }
    assert mine.private(MODEL) == ("bn.running_var", "bn.num_batches_tracked")
    assert mine.exact(MODEL) == set(MODEL) - {"conv.weight", "bn.running_mean"}
    mine.check(MODEL)


def test_what_is_no_float_is_a_buffer_whatever_a_pattern_says_but_may_be_private():
    assert of({"*": "weight"}).of(MODEL)["mask"] == "buffer"
    assert of({"*": "weight"}).of(MODEL)["phase"] == "buffer"
    assert of({"mask": "private"}).of(MODEL)["mask"] == "private"


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"'haed\.\*' \(private\) decides nothing: no tensor fits it; one is 'conv"):
        of({"haed.*": "private"}).check(MODEL)


def test_a_pattern_in_the_shadow_of_another_is_refused():
    with pytest.raises(ConfigError, match=r"'head\.\*' \(private\) decides nothing: those before it decide"):
        of({"*": "weight", "head.*": "private"}).check(MODEL)


def test_something_has_to_be_shared():
    with pytest.raises(ConfigError, match="all 7 tensors are private"):
        of({"*": "private"}).check(MODEL)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("head.*", "secret")], "'head.\\*' is 'secret', expected one of: weight, statistic, buffer, private"),
        ([("", "private")], "not a text of 1 to 256"),
        ([("x" * 257, "private")], "not a text of 1 to 256"),
        ([(7, "private")], "not a text of 1 to 256"),
        ([("a", "weight"), ("a", "private")], "stands twice"),
        ([(str(at), "private") for at in range(257)], "257 patterns, at most 256"),
        ([("a", "weight", "b")], "expected pairs"),
        ([3], "expected pairs"),
        ([("a", ["private"])], "expected one of"),
    ],
)
def test_malformed_rules_are_refused(pairs, said):
    with pytest.raises(ConfigError, match=said):
        Roles.from_pairs(pairs)
