import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.codec import encode
from flserve_app.registry.changes import delivery_bytes, tensor_changes
from tests.registry.samples import drifting


def change_of(before, after, **dtypes):
    (change,) = tensor_changes(Artifact({"w": before}, dtypes=dtypes), Artifact({"w": after}, dtypes=dtypes))
    return change


def test_a_change_is_measured():
    change = change_of(np.zeros(4, np.float32), np.array([0, 3, -4, 0], np.float32))
    assert (change.status, change.changed, change.max_abs, change.rms) == ("changed", 0.5, 4.0, 2.5)
    assert (change.name, change.dtype, change.shape) == ("w", "float32", (4,))


def test_bits_decide_what_changed():
    same = change_of(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))
    assert (same.status, same.changed, same.op) == ("same", 0.0, "same")
    zero = change_of(np.array([0.0, 1.0]), np.array([-0.0, 1.0]))
    assert (zero.status, zero.changed, zero.max_abs) == ("changed", 0.5, 0.0)


def test_values_that_are_not_finite_have_no_magnitude():
    change = change_of(np.array([1.0, np.inf, np.nan, 1.0]), np.array([3.0, -np.inf, 0.0, np.inf]))
    assert (change.changed, change.max_abs, change.rms) == (1.0, 2.0, 2.0)


def test_bfloat16_is_measured_by_value():
    change = change_of(np.array([0x3F80], np.uint16), np.array([0x4040], np.uint16), w="bfloat16")
    assert (change.dtype, change.max_abs) == ("bfloat16", 2.0)


@pytest.mark.parametrize(
    ("before", "after", "changed", "largest"),
    [
        (np.array([1 + 1j, 0]), np.array([4 + 5j, 0]), 0.5, 5.0),
        (np.array([True, False]), np.array([True, True]), 0.5, 1.0),
        (np.array([0, 255], np.uint8), np.array([255, 255], np.uint8), 0.5, 255.0),
        (np.array(-(2**62)), np.array(2**62), 1.0, 2.0**63),
        (np.array([1e308]), np.array([-1e308]), 1.0, 0.0),
        (np.empty((0, 3)), np.empty((0, 3)), 0.0, 0.0),
    ],
)
def test_every_kind_of_number_is_measured(before, after, changed, largest):
    change = change_of(before, after)
    assert (change.changed, change.max_abs) == (changed, largest)


def test_large_tensors_are_measured_in_blocks():
    before = np.zeros((3 << 20) // 2 + 5, np.float32)
    after = before.copy()
    after[[0, -1]] = [1, -2]
    change = change_of(before, after)
    assert (change.max_abs, change.changed) == (2.0, 2 / before.size)
    assert change.rms == pytest.approx((5 / before.size) ** 0.5)


def test_tensors_come_go_and_change_their_form():
    before = Artifact({"gone": np.zeros(2), "kept": np.zeros(2), "form": np.zeros((2, 2))})
    after = Artifact({"new": np.ones(2), "kept": np.zeros(2), "form": np.zeros((4, 1))})
    changes = {change.name: change for change in tensor_changes(before, after)}
    assert {name: change.status for name, change in changes.items()} == {
        "new": "added",
        "kept": "same",
        "form": "replaced",
        "gone": "removed",
    }
    assert list(changes) == ["new", "kept", "form", "gone"]
    assert changes["form"].shape == (4, 1)
    assert changes["form"].changed is None
    assert changes["gone"].nbytes is None
    assert changes["new"].nbytes > 0


def test_sizes_are_those_of_real_payloads():
    before, after = drifting(2)
    sizes = delivery_bytes(before, after)
    assert sizes == {
        "full": len(encode(after, codec="full")),
        "lossless": len(encode(after, before, "lossless")),
        "lossless-small": len(encode(after, before, "lossless-small")),
    }
