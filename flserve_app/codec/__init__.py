"""Artifacts to bytes and back: `encode`, `decode`, `inspect`; no versions, stores or clients.

The payload format is specified in `container`; what travels how is decided by `codecs` and done by `ops`.
"""

from flserve_app.codec.codecs import CODECS, Codec
from flserve_app.codec.composed import encode_composed
from flserve_app.codec.decoder import DEFAULT_MAX_BYTES, decode
from flserve_app.codec.encoder import encode, encode_parts, encode_rounded, encode_rounded_parts
from flserve_app.codec.info import PayloadInfo, TensorInfo, inspect
from flserve_app.codec.rounding import Rounded, Rounding, round_to

__all__ = [
    "CODECS",
    "DEFAULT_MAX_BYTES",
    "Codec",
    "PayloadInfo",
    "Rounded",
    "Rounding",
    "TensorInfo",
    "decode",
    "encode",
    "encode_composed",
    "encode_parts",
    "encode_rounded",
    "encode_rounded_parts",
    "inspect",
    "round_to",
]
