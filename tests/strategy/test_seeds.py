import random

import pytest

from flserve_app.strategy.seeds import drawing, round_seed


def test_a_seed_is_a_function_of_run_round_and_phase():
    assert round_seed(42, 3, "train") == 18443186273506434131 == round_seed(42, 3, "train")
    others = {round_seed(*key) for key in [(42, 3, "evaluate"), (42, 4, "train"), (43, 3, "train"), (4, 23, "train")]}
    assert len(others | {round_seed(42, 3, "train")}) == 5
    assert all(0 <= seed < 2**64 for seed in others)


def test_the_same_round_draws_the_same_and_leaves_no_trace():
    before = random.getstate()
    with drawing(1, 2, "train"):
        first = random.random()
    with drawing(1, 2, "train"):
        assert random.random() == first
    assert random.getstate() == before


def test_a_failure_leaves_no_trace_either():
    before = random.getstate()
    with pytest.raises(RuntimeError, match="boom"), drawing(1, 2, "train"):
        raise RuntimeError("boom")
    assert random.getstate() == before


def test_without_a_seed_nothing_is_touched():
    random.seed(3)
    expected = random.random()
    random.seed(3)
    with drawing(None, 1, "train"):
        assert random.random() == expected
