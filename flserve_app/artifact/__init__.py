"""Named tensors with a canonical manifest and a digest; no IO, no frameworks."""

from flserve_app.artifact import bfloat16
from flserve_app.artifact.artifact import Artifact, byte_view
from flserve_app.artifact.dtypes import DTYPES, DTYPES_BY_CODE, DType, dtype_named
from flserve_app.artifact.manifest import Manifest, TensorSpec, check_specs

__all__ = [
    "DTYPES",
    "DTYPES_BY_CODE",
    "Artifact",
    "DType",
    "Manifest",
    "TensorSpec",
    "bfloat16",
    "byte_view",
    "check_specs",
    "dtype_named",
]
