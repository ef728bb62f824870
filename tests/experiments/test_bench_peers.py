import io

import numpy as np
import pytest
from rich.console import Console

from flserve_app.artifact import Artifact
from flserve_app.errors import FlserveError
from flserve_app.experiments import bench_peers
from flserve_app.experiments.bench_peers import OWN, measure, run, show
from flserve_app.experiments.checkpoints import Checkpoints
from flserve_app.experiments.lossy_peer import LossyPeer, Sent
from tests.experiments.changes import update


def test_ours_stands_at_an_error_of_at_most_each_peers():
    rows = measure("client", update(), OWN, repeats=1)
    assert [row.peer for row in rows] == [peer.name for peer in OWN]
    for row in rows:
        assert row.our_nmse <= row.nmse
        assert row.ratio == pytest.approx(row.our_bits / row.bits)
        assert min(row.speed.encode, row.speed.decode, row.our_speed.encode, row.our_speed.decode) > 0
    by_name = {row.peer: row for row in rows}
    assert by_name["DRIVE 1 bit"].bits == pytest.approx(1, abs=0.15)
    assert by_name["EDEN 4 bit"].nmse < by_name["EDEN 2 bit"].nmse < by_name["DRIVE 1 bit"].nmse


def test_a_peer_that_gives_other_shapes_is_an_error():
    wrong = LossyPeer(
        name="broken", encode=lambda change: Sent(nbytes=1, content=b""), decode=lambda sent, like: {"w": np.zeros(1)}
    )
    with pytest.raises(FlserveError, match="broken does not give back tensors of the client's shapes"):
        measure("client", update(), [wrong], repeats=1)


def test_both_updates_are_measured_and_shown(monkeypatch):
    pair = update()
    shifted = Checkpoints(
        dtype="float32", base=pair.base, target=Artifact({name: pair.target[name] * 1.01 for name in pair.target})
    )
    monkeypatch.setattr(bench_peers, "federated_checkpoints", lambda **_: pair)
    monkeypatch.setattr(bench_peers, "client_checkpoints", lambda base, **_: shifted)
    monkeypatch.setattr(bench_peers, "installed_peers", lambda: ([], ["Z is not there (pip install z)"]))
    monkeypatch.setattr(bench_peers, "OWN", OWN[:1])
    rows, missing = run(rounds=1, seed=0, repeats=1, task="digits")
    assert [(row.update, row.peer) for row in rows] == [("aggregate", "DRIVE 1 bit"), ("client", "DRIVE 1 bit")]
    out = io.StringIO()
    monkeypatch.setattr(bench_peers, "report_console", lambda: Console(file=out, width=200))
    show(rows, missing)
    assert out.getvalue().count("DRIVE 1 bit") == 2
    assert out.getvalue().endswith("Z is not there (pip install z)\n")
