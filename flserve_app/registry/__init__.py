"""Versions of models: publishing, loading, naming; composes codec and store."""

from flserve_app.registry.bundle import Taken, export_bundle, import_bundle
from flserve_app.registry.collection import Collection, collect
from flserve_app.registry.history import cheapest_chain
from flserve_app.registry.registry import Registry
from flserve_app.registry.retention import Retention
from flserve_app.registry.verify import Damage, Report, verify
from flserve_app.store import LATEST, Edge, Holder, LabelMove, Run, Serving, Version

__all__ = [
    "LATEST",
    "Collection",
    "Damage",
    "Edge",
    "Holder",
    "LabelMove",
    "Registry",
    "Report",
    "Retention",
    "Run",
    "Serving",
    "Taken",
    "Version",
    "cheapest_chain",
    "collect",
    "export_bundle",
    "import_bundle",
    "verify",
]
