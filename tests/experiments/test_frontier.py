import numpy as np
import pytest

from flserve_app.codec import Rounding, decode, encode_rounded, round_to
from flserve_app.errors import CodecError
from flserve_app.experiments.frontier import Frontier, Point, change_of, nmse_of
from tests.experiments.changes import update


def test_nmse_is_lost_over_all_squares():
    change = {"a": np.array([3, 0], "f4"), "b": np.array([4], "f4")}
    assert nmse_of(change, change) == 0
    assert nmse_of({"a": np.zeros(2, "f4"), "b": change["b"]}, change) == pytest.approx(9 / 25)
    assert nmse_of({"a": np.zeros(2, "f4")}, {"a": np.zeros(2, "f4")}) == 0


@pytest.mark.parametrize("nmse", [0.3, 0.05, 0.005, 1e-5])
def test_a_point_is_within_the_error_and_what_the_payload_says(nmse):
    pair = update()
    point = Frontier(pair).smallest(nmse)
    assert point.nmse <= nmse
    rounded = round_to(pair.target, pair.base, point.rounding)
    payload = encode_rounded(rounded, pair.base, point.rounding.kind)
    assert len(payload) == point.nbytes
    found = decode(payload, pair.base)
    moves = {name: found[name].astype("f8") - pair.base[name] for name in found}
    assert nmse_of(moves, change_of(pair)) == point.nmse


def test_none_of_many_settings_is_smaller():
    pair, change = update(), change_of(update())
    best = Frontier(pair).smallest(0.02)
    for multiple in 2.0 ** np.arange(-4, 2, 0.25):
        for zone in (0.5, 0.65, 0.8):
            rounding = Rounding(kind="grid", multiple=float(multiple), zone=zone)
            rounded = round_to(pair.target, pair.base, rounding)
            moves = {name: rounded.artifact[name].astype("f8") - pair.base[name] for name in change}
            if nmse_of(moves, change) <= 0.02:
                assert best.nbytes <= 1.02 * len(encode_rounded(rounded, pair.base, "grid"))


def test_sizes_fall_with_the_error_allowed():
    frontier = Frontier(update())
    sizes = [frontier.smallest(nmse).nbytes for nmse in (1e-4, 1e-3, 1e-2, 1e-1, 0.5)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 4 * sizes[-1]


def test_an_error_that_no_setting_has_is_refused():
    with pytest.raises(CodecError, match="no rounding has an NMSE of at most -1"):
        Frontier(update()).smallest(-1)


def test_names_say_the_setting():
    grid = Point(rounding=Rounding(kind="grid", multiple=0.5, zone=0.7), nmse=0, nbytes=1)
    top = Point(rounding=Rounding(kind="topk", share=0.25), nmse=0, nbytes=1)
    fine = Point(rounding=Rounding(kind="grid", multiple=2, scope="model", fine=True), nmse=0, nbytes=1)
    assert (grid.name, top.name) == ("grid 0.500, zone 0.7", "topk 25.00%")
    assert fine.name == "grid 2.000, zone 0.5, model, fine"
