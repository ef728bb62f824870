"""Small ClientApps for tests: real handlers whose result is a function of (arrays, round, partition)."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.client import versioned_mod


def small_arrays(seed=0, dtype=np.float32):
    """Return a model of three tensors, one of them integer and 0-d as BatchNorm's counter is."""
    draw = np.random.default_rng(seed)
    return ArrayRecord(
        {
            "fc.weight": Array(draw.normal(size=(16, 24)).astype(dtype)),
            "fc.bias": Array(draw.normal(size=24).astype(dtype)),
            "bn.num_batches_tracked": Array(np.asarray(0, dtype=np.int64)),
        }
    )


def drift(record, server_round, partition):
    """Return arrays as training would leave them: floats a little off, integers counted up."""
    draw = np.random.default_rng([server_round, partition])
    moved = {}
    for name, array in record.items():
        value = array.numpy()
        step = 0.01 * draw.normal(size=value.shape) if value.dtype.kind == "f" else partition + 1
        moved[name] = Array(np.asarray(value + np.asarray(step).astype(value.dtype)))
    return ArrayRecord(moved)


def numpy_app(mods=(versioned_mod,), on_train=None):
    """Return a ClientApp that trains and evaluates on numpy arrays.

    Args:
        mods: The app's mods.
        on_train: Called as (message, context, round) before training; raises to crash, or returns a reply.
    """
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        record = message.content["arrays"]
        server_round, partition = message.content["config"]["server-round"], context.node_config["partition-id"]
        if on_train is not None and (reply := on_train(message, context, server_round)) is not None:
            return reply
        metrics = MetricRecord({"num-examples": 10 + partition, "loss": 1.0 / server_round})
        content = RecordDict({"arrays": drift(record, server_round, partition), "metrics": metrics})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        total = float(sum(np.abs(array.numpy()).sum() for array in message.content["arrays"].values()))
        metrics = MetricRecord({"num-examples": 5, "total": total})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app
