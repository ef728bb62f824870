import numpy as np
import pytest
from numpy.random import RandomState

from flserve_app.experiments.small_integers import packed, unpacked, unzigzag, zigzag


@pytest.mark.parametrize("most", [0, 1, 2, 7, 255, 30_000])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_codes_come_back(most, count):
    codes = RandomState(most).randint(0, most + 1, count).astype(np.uint16)
    np.testing.assert_array_equal(unpacked(packed(codes), count), codes)


def test_few_codes_take_their_bits_and_many_unequal_ones_less():
    assert len(packed(np.array([3, 0, 1, 2], np.uint16))) == 3  # way, width, four times two bits
    codes = RandomState(0).binomial(7, 0.02, 80_000).astype(np.uint16)
    assert len(packed(codes)) < 80_000 * codes.max().item().bit_length() / 8 / 2


def test_the_coder_is_shorter_than_elias_gamma_code_of_normal_steps():
    codes = zigzag(np.rint(2 * RandomState(1).normal(size=50_000)).astype(np.int64))
    gamma_bits = sum(2 * (code + 1).bit_length() - 1 for code in codes.tolist())
    assert 8 * len(packed(codes)) < gamma_bits


def test_zigzag_goes_both_ways():
    steps = np.arange(-300, 300)
    assert zigzag(np.array([0, -1, 1, -2, 2])).tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(unzigzag(zigzag(steps)), steps)
