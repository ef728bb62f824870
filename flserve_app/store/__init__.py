"""Bytes by digest and the catalog of versions; knows no codecs, no clients and no frameworks."""

from flserve_app.store.blobs import BlobStore, DirBlobs, MemoryBlobs, check_digest
from flserve_app.store.catalog import Catalog
from flserve_app.store.database import Database
from flserve_app.store.files import make_folder, write_file
from flserve_app.store.labels import Expected, Labels
from flserve_app.store.runs import Runs
from flserve_app.store.version import LATEST, Draft, Edge, LabelMove, Run, RunState, Serving, Version

__all__ = [
    "LATEST",
    "BlobStore",
    "Catalog",
    "Database",
    "DirBlobs",
    "Draft",
    "Edge",
    "Expected",
    "LabelMove",
    "Labels",
    "MemoryBlobs",
    "Run",
    "RunState",
    "Runs",
    "Serving",
    "Version",
    "check_digest",
    "make_folder",
    "write_file",
]
