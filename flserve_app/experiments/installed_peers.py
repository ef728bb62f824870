"""Peers of the rounding codecs from other packages, where these are installed.

- NNCodec (Fraunhofer HHI; ISO/IEC 15938-17): uniform steps, with and without trellis ("dependent") quantisation, and
  DeepCABAC. One step size for the whole model, as its own examples for updates have it.
- OpenFL's pipelines: EDEN by its authors, k-means with gzip (KC), sparsity and k-means (SKC), sparsity and one
  magnitude (STC), tensor by tensor. Each number of their metadata counts as 4 bytes, less than its protobuf takes.
- ZFP, as APPFL's compressor of that name calls it: tensor by tensor, a tolerance relative to the tensor's range. SZ,
  which APPFL builds from its repository, is not measured.

None of them is among the extras: NNCodec asks for numpy below 2, OpenFL for protobuf below 6, against Flower's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt

from flserve_app.experiments.lossy_peer import Change, LossyPeer, Sent, tensor_peer

_NUMBER_BYTES = 4
_STEPS = (-40, -44, -48, -52, -56, -60, -64)  # NNCodec's qp: four to an octave of the step size
_TOLERANCES = (2.0**-4, 2.0**-5, 2.0**-6, 2.0**-7)

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package with peers in it.

    Attributes:
        name: Of the project.
        module: What is imported.
        install: What one gives to `pip install`.
        peers: Makes the peers from the module.
    """

    name: str
    module: str
    install: str
    peers: Callable[[Any], Iterator[LossyPeer]]


def installed_peers() -> tuple[list[LossyPeer], list[str]]:
    """Return the peers that can be imported, and a line on each package that cannot."""
    peers: list[LossyPeer] = []
    missing = []
    for package in _PACKAGES:
        try:
            module = import_module(package.module)
        except (ImportError, RuntimeError) as error:  # torch's operators fail with the latter where builds do not fit
            missing.append(f"{package.name} is not there (pip install {package.install}): {error}")
            continue
        peers += package.peers(module)
    return peers, missing


def _nncodec(nnc: Any) -> Iterator[LossyPeer]:
    for trellis in (True, False):
        for step in _STEPS:
            yield _nncodec_at(nnc, step, trellis=trellis)


def _nncodec_at(nnc: Any, step: int, *, trellis: bool) -> LossyPeer:
    def encode(change: Change) -> Sent:
        # It writes what it returns into a file as well.
        with tempfile.TemporaryDirectory() as folder:
            data = nnc.compress(
                dict(change),
                qp=step,
                nonweight_qp=step,
                use_dq=trellis,
                return_bitstream=True,
                bitstream_path=str(Path(folder) / "change.nnc"),
            )
        return Sent(nbytes=len(data), content=data)

    def decode(sent: Sent, like: Change) -> Change:
        found = nnc.decompress(sent.content)
        return {name: np.asarray(found[name], np.float32).reshape(like[name].shape) for name in like}

    return LossyPeer(name=f"NNCodec qp {step}{', trellis' * trellis}", encode=encode, decode=decode)


def _openfl(pipelines: Any) -> Iterator[LossyPeer]:
    for bits in (1, 2, 3, 4):
        with redirect_stdout(StringIO()):  # it greets
            eden = pipelines.EdenPipeline(n_bits=bits, dim_threshold=0, device="cpu")
        yield _pipeline(f"OpenFL EDEN {bits} bit", eden)
    yield _pipeline("OpenFL KC, 6 clusters", pipelines.KCPipeline(n_clusters=6))
    yield _pipeline("OpenFL SKC 10 %", pipelines.SKCPipeline(p_sparsity=0.1, n_clusters=6))
    yield _pipeline("OpenFL STC 10 %", pipelines.STCPipeline(p_sparsity=0.1))


def _pipeline(name: str, pipeline: Any) -> LossyPeer:
    def encode(tensor: Tensor) -> Sent:
        with catch_warnings():
            # k-means warns of tensors with fewer values than clusters, as small ones have that were made sparse.
            simplefilter("ignore")
            data, metadata = pipeline.forward(tensor)
        return Sent(nbytes=len(data) + sum(map(_numbers, metadata)) * _NUMBER_BYTES, content=(data, metadata))

    def decode(content: Any) -> Tensor:
        data, metadata = content
        # A pipeline takes its metadata apart while it decodes.
        found: Tensor = np.asarray(pipeline.backward(data, list(metadata)), np.float32)
        return found

    return tensor_peer(name, encode, decode)


def _numbers(metadata: dict[str, Any]) -> int:
    """Return how many numbers are in one transformer's metadata: lists, and maps of integers to floats."""
    return sum(2 * len(part) if isinstance(part, dict) else len(part) for part in metadata.values())


def _zfp(zfpy: Any) -> Iterator[LossyPeer]:
    for tolerance in _TOLERANCES:
        yield _zfp_at(zfpy, tolerance)


def _zfp_at(zfpy: Any, tolerance: float) -> LossyPeer:
    def encode(tensor: Tensor) -> Sent:
        data = zfpy.compress_numpy(tensor.ravel(), tolerance=tolerance * float(np.ptp(tensor)))
        return Sent(nbytes=len(data), content=data)

    return tensor_peer(f"ZFP {tolerance:g} of the range", encode, zfpy.decompress_numpy)


_PACKAGES = (
    Package(name="NNCodec", module="nncodec.nnc", install="nncodec", peers=_nncodec),
    Package(name="OpenFL", module="openfl.pipelines", install="openfl", peers=_openfl),
    Package(name="ZFP", module="zfpy", install="zfpy", peers=_zfp),
)
