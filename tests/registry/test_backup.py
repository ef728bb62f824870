"""A copy of a store that is in use, made under the catalog's write lock: blobs come and go only under it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from flserve_app.registry import Registry, Retention, collect, verify
from tests.registry.samples import drifting

SHELL = (
    "sqlite3 -bail -cmd '.timeout 60000' {store}/catalog.sqlite 'BEGIN IMMEDIATE'"
    ' \'.shell sqlite3 {store}/catalog.sqlite ".backup {copy}/catalog.sqlite"'
    " && cp -al {store}/blobs {store}/FORMAT {copy}/'"
    " ROLLBACK"
)

PUBLISH = """
import os, sys
import numpy as np
from flserve_app.artifact import Artifact
from flserve_app.registry import Registry

with Registry.open(sys.argv[1], keyframe_every=4) as registry:
    while True:
        latest = registry.latest("m")
        artifact = Artifact({"w": np.random.standard_normal(2000).astype("f4")})
        registry.publish(
            "m", artifact, parent=latest.number, round=0, codec="full", state=os.urandom(2000), state_kind="adam"
        )
"""

COLLECT = """
import sys, time
from datetime import timedelta
from flserve_app.registry import Registry, Retention, collect

with Registry.open(sys.argv[1]) as registry:
    while True:
        collect(registry, Retention(keep=3), grace=timedelta(0))
        time.sleep(0.05)  # a collector without a pause is always faster than a publisher
"""


def by_shell(store, copy):
    copy.mkdir()
    done = subprocess.run(
        ["sh", "-c", SHELL.format(store=store, copy=copy)], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def by_python(store, copy):
    copy.mkdir()
    catalog = store / "catalog.sqlite"
    with (
        closing(sqlite3.connect(catalog, timeout=60, isolation_level=None)) as lock,
        closing(sqlite3.connect(catalog)) as source,
        closing(sqlite3.connect(copy / "catalog.sqlite")) as target,
    ):
        lock.execute("BEGIN IMMEDIATE")
        source.backup(target)
        # What is being written has a name of its own that comes and goes without the lock.
        unfinished = shutil.ignore_patterns(".tmp-*")
        shutil.copytree(store / "blobs", copy / "blobs", copy_function=os.link, ignore=unfinished)
        shutil.copy(store / "FORMAT", copy / "FORMAT")
        lock.execute("ROLLBACK")


def started(script, store):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", script, str(store)], env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("make", [by_shell, by_python])
def test_a_copy_of_a_store_in_use_is_sound_and_goes_on(place, make):
    if make is by_shell and shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3 on the command line")
    store = place / "store"
    with Registry.open(store) as registry:
        registry.publish("m", drifting(1)[0], round=0, codec="full")
    running = [started(script, store) for script in (PUBLISH, COLLECT)]
    try:
        with Registry.open(store) as registry:
            while len(registry.versions("m")) < 5 and running[0].poll() is None:
                time.sleep(0.05)
        for turn in range(5):
            time.sleep(0.2)
            make(store, place / str(turn))
        assert [process.poll() for process in running] == [None, None]
    finally:
        for process in running:
            process.kill()
            process.wait()
    for turn in range(5):
        with Registry.open(place / str(turn), create=False) as copy:
            report = verify(copy)
            assert report.clean, report
            latest = copy.latest("m")
            assert copy.load(latest).digest == latest.digest
            assert copy.load_state("m", latest.number) is not None
            assert (
                copy.publish("m", drifting(2)[1], parent=latest.number, round=9, codec="full").parent == latest.number
            )
            collect(copy, Retention(keep=1), grace=timedelta(0))
    with Registry.open(store, create=False) as registry:  # what goes from a copy does not go from the store
        assert verify(registry).clean
