"""Whole jobs of a tiny task, in memory."""

from functools import cache

from omegaconf import OmegaConf

from flserve_app import client_app
from flserve_app.compose.job import run_job
from flserve_app.config import checked, load
from tests.fleet import FleetGrid

TINY = ("task=synthetic", "model=mlp", "task.n=20", "task.dim=4", "task.classes=3", "model.arguments.hidden=4")


@cache
def base():
    return load(TINY).app


def composed(*overrides, clients=3, rounds=2):
    """Return the tiny configuration with overrides; it is composed once, because that takes as long as a run."""
    values = [f"num_clients={clients}", f"num_rounds={rounds}"]
    for override in overrides:
        key, _, value = override.removeprefix("+").partition("=")
        values.append(f"{key}.name={value}" if key in ("codec", "uplink") else f"{key}={value}")
    return checked(OmegaConf.merge(OmegaConf.structured(base()), OmegaConf.from_dotlist(values)), "unused")


def run(path, *overrides, grid=None, clients=3, rounds=2, observer=lambda row: None):
    grid = grid or FleetGrid(app=client_app.app, size=clients)
    return run_job(grid, composed(*overrides, clients=clients, rounds=rounds), path, observer)
