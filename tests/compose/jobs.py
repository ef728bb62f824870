"""Whole jobs of a tiny task, in memory."""

from flserve_app import client_app
from flserve_app.compose.job import run_job
from flserve_app.config import load
from tests.fleet import FleetGrid

TINY = ("task=synthetic", "model=mlp", "task.n=20", "task.dim=4", "task.classes=3", "model.arguments.hidden=4")


def composed(*overrides, clients=3, rounds=2):
    return load([*TINY, f"num_clients={clients}", f"num_rounds={rounds}", *overrides])


def run(path, *overrides, grid=None, clients=3, rounds=2, observer=lambda row: None):
    grid = grid or FleetGrid(app=client_app.app, size=clients)
    return run_job(grid, composed(*overrides, clients=clients, rounds=rounds), path, observer)
