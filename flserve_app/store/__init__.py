"""Bytes by digest and the catalog of versions; knows no codecs, no clients and no frameworks."""

from flserve_app.store.blobs import BlobStore, MemoryBlobs, NewBlob, check_digest
from flserve_app.store.catalog import Catalog
from flserve_app.store.claims import Sweeper
from flserve_app.store.clients import Clients
from flserve_app.store.database import Database
from flserve_app.store.dir_blobs import DirBlobs
from flserve_app.store.files import make_folder, write_file, writing_file
from flserve_app.store.inventory import Inventory
from flserve_app.store.labels import Expected, Labels
from flserve_app.store.leases import Lease, Leases
from flserve_app.store.lookup import History
from flserve_app.store.removal import Removal, Remover
from flserve_app.store.runs import Runs
from flserve_app.store.states import States
from flserve_app.store.version import LATEST, Draft, Edge, Holder, LabelMove, Run, RunState, Serving, State, Version

__all__ = [
    "LATEST",
    "BlobStore",
    "Catalog",
    "Clients",
    "Database",
    "DirBlobs",
    "Draft",
    "Edge",
    "Expected",
    "History",
    "Holder",
    "Inventory",
    "LabelMove",
    "Labels",
    "Lease",
    "Leases",
    "MemoryBlobs",
    "NewBlob",
    "Removal",
    "Remover",
    "Run",
    "RunState",
    "Runs",
    "Serving",
    "State",
    "States",
    "Sweeper",
    "Version",
    "check_digest",
    "make_folder",
    "write_file",
    "writing_file",
]
