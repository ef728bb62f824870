"""A fleet whose model changes in a few places a round, as under a sparse codec: its deltas are tiny."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from tests.apps import numpy_app

SHAPE = (128, 256)
CHANGES = 16


def initial(seed=0):
    draw = np.random.default_rng(seed)
    return ArrayRecord({"w": Array(draw.normal(size=SHAPE).astype(np.float32))})


def app(mods=None):
    """Return a ClientApp that changes the same few values in every client: an average of two powers of two is exact."""

    def train(message, context, server_round):
        values = message.content["arrays"]["w"].numpy().copy()
        draw = np.random.default_rng(server_round)
        values.reshape(-1)[draw.integers(0, values.size, size=CHANGES)] += np.float32(2.0**-6)
        content = {"arrays": ArrayRecord({"w": Array(values)}), "metrics": MetricRecord({"num-examples": 8})}
        return Message(RecordDict(content), reply_to=message)

    return numpy_app(on_train=train) if mods is None else numpy_app(mods=mods, on_train=train)
