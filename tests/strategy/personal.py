"""Fleets whose models have a private part: what travels, what the clients keep, and what their apps saw."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.client import versioned_mod
from flserve_app.client.held import Held
from flserve_app.client.private import read_private
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

NAMES = ["bn.running_mean", "fc.weight", "head.weight", "fc.bias", "bn.num_batches_tracked", "head.bias"]
ROLES = {"head.*": "private", "bn.num_*": "private"}
PRIVATE = ["head.weight", "bn.num_batches_tracked", "head.bias"]
SHARED = [name for name in NAMES if name not in PRIVATE]
SHAPES = {"bn.running_mean": (16,), "fc.weight": (16, 24), "head.weight": (64, 8), "fc.bias": (24,), "head.bias": (8,)}
SIZE = 3


def arrays(seed=0):
    draw = np.random.default_rng(seed)
    return ArrayRecord(
        {
            name: Array(draw.normal(size=SHAPES[name]).astype(np.float32) if name in SHAPES else np.asarray(0))
            for name in NAMES
        }
    )


class Books:
    """What the apps of a fleet saw and returned, by partition and round; the last evaluation by partition."""

    def __init__(self):
        self.given = {}
        self.returned = {}
        self.evaluated = {}

    def app(self, mods=(versioned_mod,), on_train=None):
        app = ClientApp(mods=list(mods))

        @app.train()
        def train(message, context):
            record, number = message.content["arrays"], message.content["config"]["server-round"]
            partition = context.node_config["partition-id"]
            self.given[partition, number] = {name: array.numpy().copy() for name, array in record.items()}
            trained = self.drifted(record, number, partition)
            self.returned[partition, number] = trained
            content = RecordDict(
                {
                    "arrays": ArrayRecord({name: Array(value) for name, value in trained.items()}),
                    "metrics": MetricRecord({"num-examples": 10 + partition}),
                }
            )
            if on_train is not None:
                on_train(content, partition, number)
            return Message(content, reply_to=message)

        @app.evaluate()
        def evaluate(message, context):
            partition = context.node_config["partition-id"]
            self.evaluated[partition] = {name: a.numpy().copy() for name, a in message.content["arrays"].items()}
            return Message(RecordDict({"metrics": MetricRecord({"num-examples": 5, "a": 1.0})}), reply_to=message)

        return app

    def drifted(self, record, number, partition):
        draw = np.random.default_rng([number, partition])
        moved = {}
        for name, array in record.items():
            value = array.numpy()
            step = draw.normal(size=value.shape) if value.dtype.kind == "f" else partition + 1
            moved[name] = np.asarray(value + np.asarray(step).astype(value.dtype))
        return moved


class Wire:
    """All bytes that went over the wire: arrays, and byte strings in configs."""

    def __init__(self, grid):
        self.bytes = []
        self.names = set()
        grid.down.append(self.note)
        grid.up.append(self.note)

    def note(self, message):
        if message.has_content():
            for record in message.content.array_records.values():
                self.bytes += [array.data for array in record.values()]
                self.names |= set(record)
            for record in message.content.config_records.values():
                self.bytes += [value for value in record.values() if isinstance(value, bytes)]
        return message

    def has(self, value):
        return any(np.asarray(value).tobytes() in each for each in self.bytes)


def personal(store, *, books=None, grid=None, train=SIZE, rounds=3, **options):
    """Run a federation with private tensors; returns its outcome."""
    grid = grid or FleetGrid(app=(books or Books()).app(), size=SIZE)
    settings = {"roles": ROLES, "initial": arrays(), "inner": fedavg(SIZE, train, SIZE), **options}
    return federate(store, grid=grid, rounds=rounds, **settings)


def kept(grid, number, model="model"):
    """Return the private values that a node keeps."""
    data = Held(grid.contexts[grid.node_id(number)]).private(model)
    return None if data is None else read_private(data)[1].values
