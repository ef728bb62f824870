"""A publisher with FedAdam's state, readers, collections that are killed, `verify`, `log` and `export`, all at once.

No false alarm, no traceback, nothing lost. `FLSERVE_SOAK_SECONDS` says for how long (30), `FLSERVE_SOAK_SEED` repeats
what is random. Run with `-s` for the figures.
"""

import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from flserve_app.registry import Registry, Retention, collect, verify
from tests.registry.soak import MODEL, Adam

SECONDS = float(os.environ.get("FLSERVE_SOAK_SECONDS", "30"))
SEED = int(os.environ.get("FLSERVE_SOAK_SEED", str(secrets.randbelow(1 << 31))))
FLSERVE = [sys.executable, "-c", "from flserve_app.cli import main; main()"]
KEPT = 3


class Soak:
    """What runs, what it said, and what went wrong."""

    def __init__(self, store):
        self.store, self.stop = store, store.parent / "stop"
        self.end = time.monotonic() + SECONDS
        self.done, self.wrong, self.said = Counter(), [], {}
        self._lock = threading.Lock()

    def start(self, *command):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "FLWR_TELEMETRY_ENABLED": "0"}
        return subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.store.parent,
        )

    def soak(self, *arguments):
        return self.start(sys.executable, "-W", "ignore", "-m", "tests.registry.soak", *arguments)

    def note(self, what):
        with self._lock:
            self.done[what] += 1

    def fail(self, what, said):
        with self._lock:
            self.wrong.append((what, said[-2000:]))

    def going_on(self):
        return time.monotonic() < self.end

    def publish(self, stream):
        """A publisher that is killed every now and then, and begun again."""
        while self.going_on():
            process = self.soak("publish", self.store, SEED)
            until = time.monotonic() + stream.uniform(5, 20)
            while time.monotonic() < min(until, self.end) and process.poll() is None:
                time.sleep(0.05)
            if process.poll() is not None:
                self.fail("publisher", process.communicate()[1])
                return
            process.kill()
            self.take(process.communicate()[0])
            self.note("publishers killed")

    def take(self, said):
        for line in said.splitlines(keepends=True):
            if line.endswith("\n"):
                number, digest = line.split()
                if self.said.setdefault(int(number), digest) != digest:
                    self.fail("publisher", f"v{number} published twice")

    def read(self, seed):
        output, errors = (process := self.soak("read", self.store, self.stop, seed)).communicate()
        if process.returncode:
            self.fail("reader", errors)
        else:
            for what, count in json.loads(output).items():
                with self._lock:
                    self.done[f"read: {what}"] += count

    def collect(self, stream):
        """Collections of both kinds, many of them killed at a random moment of the time that the last one took."""
        lasts = {True: 2.0, False: 2.0}
        while self.going_on():
            hasty, begun = stream.random() < 0.5, time.monotonic()
            gc = (*FLSERVE, "gc", "--keep", KEPT, "--store", self.store)
            process = self.soak("collect", self.store) if hasty else self.start(*gc)
            try:
                _, errors = process.communicate(timeout=stream.choice([None, stream.uniform(0.3, 1.2) * lasts[hasty]]))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                self.note("gc killed")
                continue
            if process.returncode:
                self.fail("gc", errors)
            self.note("gc done")
            lasts[hasty] = time.monotonic() - begun

    def look(self, stream):
        """`verify`, `export`, `log` and `diff`, in any order."""
        out = self.store.parent / "out"
        commands = {
            "verify": ["verify", "--json"],
            "export": ["export", "latest", "-f", "npz", "-o", out],
            "bundle": ["export", "latest", "--bundle", out],
            "bundle of all": ["export", "--all", "--bundle", out],
            "log": ["log", "--json"],
            "log of few": ["log", "--limit", "20"],
            "diff": ["diff", "stable", "latest", "--json"],
        }
        while self.going_on():
            what = stream.choice(list(commands))
            process = self.start(*FLSERVE, *commands[what], "--store", self.store)
            output, errors = process.communicate()
            self.note(what)
            if process.returncode:
                self.fail(what, output + errors)
            elif what == "log":
                rows = json.loads(output)
                latest = [row["version"] for row in rows if "latest" in row["labels"]]
                if latest != [rows[-1]["version"]] or rows[-1]["version"] != f"v{len(rows) - 1}":
                    self.fail(what, str(latest))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS * 2 + 240)
def test_everything_at_once(tmp_path):
    soak, stream = Soak(tmp_path / "store"), random.Random(SEED)
    print(f"\nFLSERVE_SOAK_SEED={SEED} FLSERVE_SOAK_SECONDS={SECONDS:g}")
    with Registry.open(soak.store, keyframe_every=5) as registry:
        first = registry.publish(MODEL, Adam(SEED).artifact(), round=0, codec="lossless", **state_of_first())
        registry.move_label(MODEL, "stable", 0, why="the first")
        soak.said[0] = first.digest
    seeds = [stream.randrange(1 << 31) for _ in range(6)]
    works = [
        (soak.publish, random.Random(seeds[0])),
        (soak.read, seeds[1]),
        (soak.read, seeds[2]),
        (soak.collect, random.Random(seeds[3])),
        (soak.look, random.Random(seeds[4])),
    ]
    threads = [threading.Thread(target=work, args=(argument,)) for work, argument in works]
    for thread in threads:
        thread.start()
    time.sleep(max(0, soak.end - time.monotonic()))
    soak.stop.touch()
    for thread in threads:
        thread.join()
    check_nothing_is_lost(soak)
    print({"versions": len(soak.said), **dict(sorted(soak.done.items())), "wrong": len(soak.wrong)})
    assert soak.wrong == []
    assert all(soak.done[what] for what in ("gc done", "gc killed", "read: latest", "publishers killed"))


def state_of_first():
    """FedAdam's state before its first round, so that a publisher has something to go on from."""
    import numpy as np
    from flwr.serverapp.strategy import FedAdam

    from flserve_app.strategy.state import save

    strategy, adam = FedAdam(), Adam(SEED)
    strategy.m_t, strategy.v_t = ({"weight": np.array(moment)} for moment in (adam.m_t, adam.v_t))
    kind, state = save(strategy)
    return {"state": state, "state_kind": kind}


def check_nothing_is_lost(soak):
    """The line of digests is that of a run that nobody disturbed, and what is kept is there to the last bit."""
    with Registry.open(soak.store, create=False, recent_bytes=0) as registry:
        assert verify(registry).clean
        collect(registry, Retention(keep=KEPT), grace=timedelta(0))
        report = verify(registry)
        assert report.clean, report
        assert report.orphans == ()
        versions = registry.versions(MODEL)
        adam, expected = Adam(SEED), {}
        for number in range(len(versions)):
            expected[number] = adam.artifact()
            adam.step()
        assert {version.number: version.digest for version in versions} == {
            number: artifact.digest for number, artifact in expected.items()
        }
        assert soak.said.items() <= {version.number: version.digest for version in versions}.items()
        kept = [version for version in versions if version.collected is None]
        assert set(range(len(versions))[-KEPT:]) <= {version.number for version in kept}
        assert all(registry.load(version) == expected[version.number] for version in kept)
        assert all(registry.load_state(MODEL, version.number) for version in versions[-KEPT:])
        assert registry.labels(MODEL)["latest"] == len(versions) - 1
