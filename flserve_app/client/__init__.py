"""The client's side: fetch, verify, hold, train, evaluate, predict."""

from flserve_app.client.client import VersionedClient
from flserve_app.client.mod import versioned_mod

__all__ = ["VersionedClient", "versioned_mod"]
