"""flserve: model distribution and serving for federated learning on Flower."""

from flserve_app.artifact import Artifact
from flserve_app.codec import decode, encode
from flserve_app.errors import FlserveError

__all__ = ["Artifact", "FlserveError", "decode", "encode"]
