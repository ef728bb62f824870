"""Runs that kill themselves: `python -m tests.strategy.killed FOLDER WHEN...` leaves a store for each point.

Every run is a child of this process, forked before any thread is started, and dies by SIGKILL in round 3.
"""

import logging
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from sqlalchemy import Engine, event

from flserve_app.client import versioned_mod
from flserve_app.registry import Registry
from flserve_app.store import Database, DirBlobs
from tests.fleet import FleetGrid
from tests.strategy.blobs import initial, learner
from tests.strategy.matrix import CLIENTS, made
from tests.strategy.runs import federate

ROUND = 3
POINTS = (
    *(f"client {number}" for number in (1, CLIENTS)),
    *(f"blob {number} {where}" for number in (1, 2) for where in ("before", "within", "after")),
    *(f"statement {number}" for number in (1, 3, 5, 8, 10)),
    *(f"commit {number}" for number in (1, 2)),
    "row",
)


def store_of(folder, when):
    return Path(folder) / when.replace(" ", "-")


class Death:
    """Counts what happens in the last round, and dies at the point."""

    def __init__(self, when):
        self.when = when
        self.armed = False
        self.counts = {"client": 0, "blob": 0, "statement": 0, "commit": 0}

    def reached(self, what, where=""):
        return self.when == f"{what} {self.counts[what]} {where}".strip()

    def count(self, what):
        self.counts[what] += self.armed
        if self.reached(what):
            die()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class DyingBlobs:
    """Dies before, within or after making a blob; one that was written and is not kept does not count."""

    def __init__(self, inner, death, folder):
        self.inner, self.death, self.folder = inner, death, folder

    def put(self, data):
        return self.made(data, lambda: self.inner.put(data))

    @contextmanager
    def writing(self, parts):
        data = b"".join(parts)
        with self.inner.writing([data]) as new:
            yield SimpleNamespace(digest=new.digest, nbytes=new.nbytes, keep=lambda: self.made(data, new.keep))

    def made(self, data, make):
        self.death.count("blob")
        self.at("before")
        if self.death.armed and self.death.reached("blob", "within"):
            (self.folder / ".tmp-half").write_bytes(data[: len(data) // 2])
            die()
        done = make()
        self.at("after")
        return done

    def at(self, where):
        if self.death.armed and self.death.reached("blob", where):
            die()

    def __getattr__(self, name):
        return getattr(self.inner, name)


def run(store, when):
    logging.disable(logging.CRITICAL)
    death = Death(when)

    def counting(message, context, call_next):
        if message.content["config"]["server-round"] == ROUND:
            death.armed = True
            death.count("client")
        return call_next(message, context)

    @event.listens_for(Engine, "before_cursor_execute")
    def statement(connection, cursor, text, *_):
        if text.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            death.count("statement")

    @event.listens_for(Engine, "commit")
    def commit(connection):
        if connection.get_execution_options().get("flserve_writes"):
            death.count("commit")

    Registry.open(store).close()
    blobs = DyingBlobs(DirBlobs(store / "blobs"), death, store / "blobs")
    with Registry(Database.at(store / "catalog.sqlite"), blobs) as registry:
        federate(
            registry,
            grid=FleetGrid(app=learner([versioned_mod, counting]), size=CLIENTS),
            inner=made("FedAdam"),
            rounds=4,
            initial=initial(),
            on_row=lambda row: when == "row" and row.round == ROUND and die(),
        )


def main(folder, points):
    for when in points:
        child = os.fork()
        if child == 0:
            run(store_of(folder, when), when)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(when, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
