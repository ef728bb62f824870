import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flserve_app.artifact import DTYPES, Artifact, bfloat16
from flserve_app.errors import ArtifactError
from flserve_app.strategy.restore import restore

INTEGERS = ["int8", "int16", "int32", "uint8", "uint16", "uint32"]


def record(**values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def like(**dtypes):
    return Artifact({name: np.zeros(2, dtype=DTYPES[dtype].storage) for name, dtype in dtypes.items()}, dtypes=dtypes)


def test_floats_are_cast_and_integers_rounded():
    found = restore(record(a=[0.1, 2.0], b=[1.5, -2.6], c=[0.4, 0.6]), like(a="float32", b="int64", c="bool"))
    assert found["a"].dtype == np.float32
    assert np.array_equal(found["a"], np.float32([0.1, 2.0]))
    assert found["b"].tolist() == [2, -3]
    assert found["c"].tolist() == [False, True]


def test_half_goes_to_even_as_torch_and_numpy_round():
    assert restore(record(a=[0.5, 1.5, 2.5, -0.5]), like(a="int32"))["a"].tolist() == [0, 2, 2, 0]


def test_a_counter_without_dimensions_stays_one():
    found = restore(record(n=np.float64(6.9999)), Artifact({"n": np.asarray(3, dtype=np.int64)}))
    assert (found["n"].shape, found["n"].dtype, int(found["n"])) == ((), np.int64, 7)


def test_bfloat16_is_rounded_to_nearest_even():
    values = np.array([1.0 + 2**-9, 1.0 + 3 * 2**-9], dtype=np.float64)
    found = restore(record(w=values), like(w="bfloat16"))
    assert found.specs["w"].dtype == "bfloat16"
    assert bfloat16.widen(found["w"]).tolist() == [1.0, 1.0 + 2**-7]


def test_the_order_is_the_models_and_new_tensors_come_last():
    found = restore(record(new=[1.0], b=[1.0, 1.0], a=[1.0, 1.0]), like(a="float32", b="float16"))
    assert list(found) == ["a", "b", "new"]
    assert [spec.dtype for spec in found.specs.values()] == ["float32", "float16", "float64"]


def test_a_tensor_that_is_missing_is_no_more():
    found = restore(record(new=[1.0], c=[1.0, 2.0], a=[1.0, 2.0]), like(a="float32", b="float32", c="float16"))
    assert [(spec.name, spec.dtype) for spec in found.specs.values()] == [
        ("a", "float32"),
        ("c", "float16"),
        ("new", "float64"),
    ]


def test_no_tensors_at_all_is_an_error():
    with pytest.raises(ArtifactError, match="the aggregate has no tensors"):
        restore(ArrayRecord(), like(a="float32"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_integer_has_to_be_finite(value):
    with pytest.raises(ArtifactError, match=r"the aggregate of 'a' \(int64\) is not finite"):
        restore(record(a=[0.0, value]), like(a="int64"))
    assert np.isfinite(restore(record(a=[0.0, value]), like(a="float32"))["a"]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int8", 127.6), ("int8", -129), ("uint8", -1), ("uint8", 256), ("bool", 2), ("bool", -1), ("int64", 2.0**63),
     ("int64", -(2.0**63) - 2048), ("uint64", 2.0**64), ("int32", np.int64(2**31))],
)  # fmt: skip
def test_an_integer_has_to_be_in_range(dtype, value):
    with pytest.raises(ArtifactError, match=f"the aggregate of 'a' is out of the range of {dtype}"):
        restore(record(a=[0, value]), like(a=dtype))


@pytest.mark.parametrize(
    ("dtype", "value"), [("int64", -(2.0**63)), ("uint64", 2.0**63), ("int8", 127.4), ("int8", -128.5)]
)
def test_the_ends_of_the_range_are_in_it(dtype, value):
    assert int(restore(record(a=[0, value]), like(a=dtype))["a"][1]) == round(value)


def test_what_has_the_dtype_already_keeps_every_bit():
    bits = np.array([0x7FC00001, 0x80000000], dtype=np.uint32)
    assert restore(record(a=bits.view(np.float32)), like(a="float32"))["a"].view(np.uint32).tolist() == bits.tolist()
    big = np.array([2**63 - 1, -(2**63)], dtype=np.int64)
    assert restore(record(a=big), like(a="int64"))["a"].tolist() == big.tolist()


def test_a_float_too_large_for_its_dtype_is_infinite_without_a_warning():
    assert np.isinf(restore(record(a=[1e300, 0.0]), like(a="float32"))["a"]).tolist() == [True, False]


def test_empty_tensors_pass():
    found = restore(record(a=np.zeros((0, 3))), Artifact({"a": np.zeros((0, 3), dtype=np.int64)}))
    assert (found["a"].shape, found["a"].dtype) == ((0, 3), np.int64)


@given(st.sampled_from(INTEGERS).flatmap(lambda dtype: hnp.arrays(np.dtype(dtype), 5)))
def test_the_mean_of_equal_integers_is_that_integer(values):
    mean = sum(values.astype(np.float64) * weight for weight in (0.1, 0.2, 0.7))
    assert np.array_equal(restore(record(a=mean), Artifact({"a": values}))["a"], values)
