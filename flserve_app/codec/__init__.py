"""Artifacts to bytes and back: `encode`, `decode`, `inspect`; no versions, stores or clients.

The payload format is specified in `container`; what travels how is decided by `codecs` and done by `ops`.
"""

from flserve_app.codec.codecs import CODECS, Codec
from flserve_app.codec.decoder import DEFAULT_MAX_BYTES, decode
from flserve_app.codec.encoder import encode, encode_parts
from flserve_app.codec.info import PayloadInfo, TensorInfo, inspect

__all__ = [
    "CODECS",
    "DEFAULT_MAX_BYTES",
    "Codec",
    "PayloadInfo",
    "TensorInfo",
    "decode",
    "encode",
    "encode_parts",
    "inspect",
]
