import sys

import pytest

from flserve_app.errors import MissingExtra, StoreError
from flserve_app.experiments.byte_curve import Curve
from flserve_app.experiments.bytes_plot import check_plot, plot

CURVE = Curve(accuracy=(0.1, 0.2), payload=(1000, 3000), message=(10, 30))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"matplotlib is not installed: pip install 'flserve\[plot\]'"):
        check_plot()


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bytes.png"
    plot(path, "small", {"full": [CURVE, CURVE], "topk": [CURVE]}, goal=0.2, margin=0.005)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StoreError, match="cannot be written"):
        plot(tmp_path / "none" / "bytes.png", "small", {"full": [CURVE]}, goal=0.2, margin=0.005)
