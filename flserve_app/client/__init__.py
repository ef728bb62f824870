"""The client's side: fetch, verify, hold, train, evaluate, predict."""

from flserve_app.client.client import VersionedClient
from flserve_app.client.mod import building, versioned_mod
from flserve_app.client.offline import offline_context
from flserve_app.client.recipe import Builder, Recipe

__all__ = ["Builder", "Recipe", "VersionedClient", "building", "offline_context", "versioned_mod"]
