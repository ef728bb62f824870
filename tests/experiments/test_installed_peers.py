"""Packages that are not installed, and some that behave as those do."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flserve_app.experiments.frontier import nmse_of
from flserve_app.experiments.installed_peers import installed_peers
from tests.experiments.changes import heavy_tailed

MODULES = ("nncodec.nnc", "openfl.pipelines", "zfpy")


class Pipeline:
    """One of OpenFL's: bytes, and metadata that decoding takes apart."""

    def __init__(self, **settings):
        self.settings = settings

    def forward(self, tensor):
        return tensor.astype("f4").tobytes(), [{"int_list": list(tensor.shape)}, {"int_to_float": {0: 0.5, 1: 1.0}}]

    def backward(self, data, metadata):
        metadata.pop()
        shape = metadata.pop()["int_list"]
        return np.frombuffer(data, "f4").reshape(shape)


@pytest.fixture
def missing(monkeypatch):
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)


def packages(monkeypatch, module, **content):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], SimpleNamespace())
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**content))


def test_missing_packages_are_named_with_what_installs_them(missing):
    peers, lines = installed_peers()
    assert peers == []
    assert [line.partition(":")[0] for line in lines] == [
        "NNCodec is not there (pip install nncodec)",
        "OpenFL is not there (pip install openfl)",
        "ZFP is not there (pip install zfpy)",
    ]


def test_pipelines_are_charged_for_their_metadata(missing, monkeypatch):
    kinds = ("EdenPipeline", "KCPipeline", "SKCPipeline", "STCPipeline")
    packages(monkeypatch, "openfl.pipelines", **dict.fromkeys(kinds, Pipeline))
    peers, lines = installed_peers()
    assert len(peers) == 7
    assert len(lines) == 2
    change = heavy_tailed()
    for peer in peers:
        sent = peer.encode(change)
        # Values; two dimensions, one, and two pairs in each of the two tensors' metadata.
        assert sent.nbytes == sum(array.nbytes for array in change.values()) + 4 * (2 + 1 + 2 * 4)
        for _ in range(2):
            assert nmse_of(peer.decode(sent, change), change) == 0


def test_nncodec_gets_the_whole_change_with_one_step(missing, monkeypatch):
    asked = []

    def compress(change, **settings):
        asked.append(settings)
        return {name: array.copy() for name, array in change.items()}

    packages(monkeypatch, "nncodec.nnc", compress=compress, decompress=lambda data: data)
    peers, _ = installed_peers()
    change = heavy_tailed()
    sent = peers[0].encode(change)
    assert nmse_of(peers[0].decode(sent, change), change) == 0
    assert asked[0]["qp"] == asked[0]["nonweight_qp"] == -40
    assert asked[0]["return_bitstream"]
    assert [peer.name for peer in peers][6:8] == ["NNCodec qp -64, trellis", "NNCodec qp -40"]


def test_zfp_gets_a_tolerance_of_the_range(missing, monkeypatch):
    asked = []

    def compress(tensor, tolerance):
        asked.append(tolerance / float(np.ptp(tensor)))
        return tensor.tobytes()

    packages(monkeypatch, "zfpy", compress_numpy=compress, decompress_numpy=lambda data: np.frombuffer(data, "f4"))
    peers, _ = installed_peers()
    change = heavy_tailed()
    sent = peers[0].encode(change)
    assert nmse_of(peers[0].decode(sent, change), change) == 0
    assert asked == pytest.approx([2.0**-4] * 2)
    assert peers[0].name == "ZFP 0.0625 of the range"
