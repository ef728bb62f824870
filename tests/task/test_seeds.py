from hypothesis import given
from hypothesis import strategies as st

from flserve_app.task import derived_seed, stream


def test_a_seed_means_the_same_in_every_release():
    assert derived_seed(42, "weights") == 16632896
    assert stream(42, "train", 3, 7).random_sample(2).tolist() == [0.23676702477519518, 0.998633657026145]


@given(st.integers(), st.text(max_size=8), st.integers(0, 1000))
def test_derived_seeds_fit_numpy_and_torch(seed, purpose, number):
    derived = derived_seed(seed, purpose, number)
    assert 0 <= derived < 2**32
    assert derived == derived_seed(seed, purpose, number)
    assert derived != derived_seed(seed + 1, purpose, number)
    assert derived != derived_seed(seed, purpose, number + 1)


def test_a_number_is_not_its_text():
    assert derived_seed(1, "a", 1) != derived_seed(1, "a", "1")
