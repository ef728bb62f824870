"""The processes of the soak test: `python -m tests.registry.soak publish|read|collect STORE ...`.

The publisher trains as FedAdam does, on gradients that follow from a seed and the version's number: killed and begun
again, it goes on from the newest version and the state that was kept with it, so that one line of digests shows that
nothing was lost. Readers check what they read, and end when a file appears; what they counted is JSON on stdout.
"""

import json
import random
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np

from flserve_app.artifact import Artifact
from flserve_app.errors import NotFound
from flserve_app.registry import Holder, Registry, Retention, collect
from flserve_app.registry.named import load_named

MODEL = "m"
SIZE = 20_000
PAUSE_SECONDS = 0.03


class Adam:
    """FedAdam's arithmetic, on one tensor."""

    def __init__(self, seed):
        self.seed, self.number = seed, 0
        self.weight = np.random.RandomState(seed).standard_normal(SIZE).astype(np.float32)
        self.m_t, self.v_t = np.zeros(SIZE, np.float32), np.zeros(SIZE, np.float32)

    def artifact(self):
        return Artifact({"weight": self.weight, "number": np.array(self.number)})

    def step(self):
        self.number += 1
        gradient = np.random.RandomState([self.seed, self.number]).standard_normal(SIZE).astype(np.float32)
        self.m_t = np.float32(0.9) * self.m_t + np.float32(0.1) * gradient
        self.v_t = np.float32(0.99) * self.v_t + np.float32(0.01) * gradient * gradient
        self.weight = self.weight + np.float32(0.01) * self.m_t / (np.sqrt(self.v_t) + np.float32(1e-3))


def publish(store, seed):
    """Publish round after round until killed, saying each version once it is committed."""
    from flwr.serverapp.strategy import FedAdam

    from flserve_app.strategy.state import restore_state, save

    adam, strategy = Adam(seed), FedAdam()
    with Registry.open(store, keyframe_every=5) as registry:
        latest = registry.latest(MODEL)
        if latest is not None:
            artifact = registry.load(latest)
            restore_state(strategy, registry.load_state(MODEL, latest.number), latest.name)
            adam.number, adam.weight = latest.number, artifact["weight"]
            adam.m_t, adam.v_t = strategy.m_t["weight"], strategy.v_t["weight"]
            adam.step()
        while True:
            strategy.m_t, strategy.v_t = {"weight": adam.m_t}, {"weight": adam.v_t}
            kind, state = save(strategy)
            version = registry.publish(
                MODEL,
                adam.artifact(),
                parent=adam.number - 1 if adam.number else None,
                round=adam.number,
                codec="lossless",
                state=state,
                state_kind=kind,
            )
            print(version.number, version.digest, flush=True)
            registry.add_metrics(MODEL, version.number, {"loss": 1.0 / (1 + version.number)})
            holders = [Holder(identity="a", digest=version.digest, number=version.number, round=version.round)]
            registry.saw_clients(MODEL, holders)
            if version.number % 25 == 0:
                registry.move_label(MODEL, "stable", version.number, why="the round number")
            adam.step()
            time.sleep(PAUSE_SECONDS)


def read(store, stop, seed):
    """Read whatever can be read until the file `stop` is there."""
    stream, done, newest = random.Random(seed), Counter(), -1
    registry = Registry.open(store, create=False, recent_bytes=0)
    while not Path(stop).exists():
        if stream.random() < 0.2:  # somebody who comes and goes
            registry.close()
            registry = Registry.open(store, create=False, recent_bytes=0)
            done["opened"] += 1
        (latest, artifact), (again, _) = load_named(registry, MODEL, "latest", "latest")
        assert (latest, int(artifact["number"])) == (again, latest.number)
        assert latest.number >= newest, (latest.number, newest)
        newest = latest.number
        state = registry.load_state(MODEL, newest)
        done["latest"] += 1
        done["states" if state else "states forgotten"] += 1
        history = registry.catalog.history(MODEL, limit=stream.choice([1, 10, None]))
        assert history.labels["latest"] == history.versions[-1].number == history.total - 1 >= newest
        done["histories"] += 1
        chosen = stream.choice(history.versions[-20:])
        try:
            assert int(registry.load(registry.resolve(MODEL, chosen.digest[:20]))["number"]) == chosen.number
            done["older"] += 1
        except NotFound as error:
            if " was collected on " not in str(error):
                raise
            done["older collected"] += 1
        time.sleep(0.01)
    registry.close()
    print(json.dumps(done))


def collect_all(store):
    """Collect with no grace at all: what is young and has no name goes too."""
    with Registry.open(store, create=False) as registry:
        collect(registry, Retention(keep=3), grace=timedelta(0), leftover_grace=timedelta(minutes=5))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["publish", store, seed]:
            publish(store, int(seed))
        case ["read", store, stop, seed]:
            read(store, stop, int(seed))
        case ["collect", store]:
            collect_all(store)
