"""`flserve bench plan` on a small model."""

import io

import pytest
from rich.console import Console

from flserve_app.experiments import bench_plan
from flserve_app.experiments.bench_plan import CODECS, rounds, show


@pytest.fixture(scope="module")
def found():
    return list(rounds(megabytes=1, versions=4, clients=40, bases=(2, 9)))


def test_every_codec_has_a_round_for_each_number_of_bases(found):
    assert [(each.codec, each.bases) for each in found] == [(codec, bases) for codec in CODECS for bases in (2, 3)]
    for each in found:
        # The delta from the version before is in the history already.
        assert each.made == each.bases - 1
        assert each.made_seconds > 0
        assert each.worst_ms >= each.plan_ms > 0
        assert 0 < each.nbytes < 0.9 * each.full


def test_it_is_shown(found, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(bench_plan, "report_console", lambda: Console(file=out, width=80))
    show(found)
    assert "40 clients, 4 versions" in out.getvalue()
    assert all(codec in out.getvalue() for codec in CODECS)
