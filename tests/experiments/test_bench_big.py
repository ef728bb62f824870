import sys
from io import StringIO

import pytest
from rich.console import Console

from flserve_app.errors import FlserveError
from flserve_app.experiments import bench_big
from flserve_app.experiments.bench_big import Phase, run, show

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 1 << 20


@pytest.mark.slow
def test_a_model_goes_all_the_way():
    phases = {phase.name: phase for phase in run(gigabytes=1 / 64, cap_gigabytes=4)}
    assert list(phases)[-1] == "a federated round"
    assert 0.2 * 16 * MIB < phases["encode v0 to v1"].nbytes < 0.6 * 16 * MIB
    assert phases["decode and verify v1"].nbytes == 16 * MIB


@pytest.mark.slow
def test_a_cap_that_is_too_low_is_an_error_with_its_reason():
    with pytest.raises(FlserveError, match=r"does not pass under 0\.25 GB: .*MemoryError"):
        run(gigabytes=0.125, cap_gigabytes=0.25)


@pytest.mark.slow
def test_a_gigabyte_passes_under_its_cap():
    phases = {phase.name: phase for phase in run(gigabytes=1.0, cap_gigabytes=9.0)}
    assert phases["encode v0 to v1"].extra < 1.5 * 256 * MIB
    assert phases["decode and verify v1"].extra < 64 * MIB
    # No payload as a whole, but for the pages of the file that is read.
    assert phases["publish v0"].extra < 1.5 * 256 * MIB
    assert phases["publish v1"].extra < 1.5 * 256 * MIB
    assert phases["load and verify v1"].extra < 1.5 * 1024 * MIB
    assert phases["verify the store"].extra < 2.5 * 1024 * MIB
    assert phases["a federated round"].peak < 9 << 30


def test_phases_are_shown(monkeypatch):
    out = StringIO()
    monkeypatch.setattr(bench_big, "report_console", lambda: Console(file=out, width=120))
    show([Phase(name="encode", seconds=1.0, before=MIB, peak=5 * MIB, nbytes=3 * MIB)], gigabytes=1, cap_gigabytes=2)
    assert "encode" in out.getvalue()
    assert "cap of 2 GB" in out.getvalue()
