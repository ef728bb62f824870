"""`flserve bench lossy` on a small model."""

import io

import pytest
from rich.console import Console

from flserve_app.artifact import Artifact
from flserve_app.experiments import bench_lossy
from flserve_app.experiments.bench_lossy import SETTINGS, TIMED, show, size, speeds
from tests.codec.examples import network, trained


@pytest.mark.slow
def test_sizes_and_speeds(monkeypatch):
    old = network(1, rows=128, columns=96)
    found = [size(name, Artifact(trained(old, 1)), Artifact(old)) for name in SETTINGS]
    assert all(0 < each.moved < 1 and each.entropy > 0 for each in found)
    by_name = {each.name: each for each in found}
    assert by_name["topk 0.25 %"].nbytes < by_name["topk 1 %"].nbytes < by_name["grid 1 sigma"].nbytes
    timed = speeds(megabytes=4, repeats=1)
    assert [each.name for each in timed] == [f"{name}, {kind}" for kind in ("even", "uneven") for name in TIMED]
    assert all(each.encode_mb_s > 0 and each.decode_mb_s > 0 and each.fraction < 0.2 for each in timed)
    out = io.StringIO()
    monkeypatch.setattr(bench_lossy, "report_console", lambda: Console(file=out, width=120))
    show(found, timed)
    assert all(name in out.getvalue() for name in (*SETTINGS, "topk 1 %, uneven"))
