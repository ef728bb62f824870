"""A task that numpy learns in milliseconds: three clouds of points, softmax regression, seven clients."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

CLASSES, WIDTH = 3, 5
CENTRES = np.random.default_rng(7).normal(size=(CLASSES, WIDTH)) * 3.0


def points(seed, n=30):
    draw = np.random.default_rng([41, seed])
    labels = draw.integers(0, CLASSES, size=n)
    return (CENTRES[labels] + draw.normal(size=(n, WIDTH))).astype(np.float32), labels


def initial(counter=True):
    arrays = {"w": Array(np.zeros((WIDTH, CLASSES), np.float32)), "b": Array(np.zeros(CLASSES, np.float32))}
    if counter:
        arrays = {"w": arrays["w"], "seen": Array(np.asarray(0, np.int64)), "b": arrays["b"]}
    return ArrayRecord(arrays)


def probabilities(arrays, inputs):
    logits = inputs @ arrays["w"].numpy() + arrays["b"].numpy()
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def accuracy(arrays):
    inputs, labels = points(10_000, 400)
    return float((probabilities(arrays, inputs).argmax(axis=1) == labels).mean())


def learner(mods, steps=5, lr=0.2):
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        given, config = message.content["arrays"], message.content["config"]
        partition = context.node_config["partition-id"]
        inputs, labels = points(partition, 20 + 3 * partition)
        one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
        w, b = given["w"].numpy().copy(), given["b"].numpy().copy()
        mu = config.get("proximal-mu", 0.0)
        loss = 0.0
        for _ in range(steps):
            now = probabilities({"w": Array(w), "b": Array(b)}, inputs)
            loss = float(-np.log(now[np.arange(len(labels)), labels]).mean())
            error = (now - one_hot) / len(labels)
            w = (w - lr * (inputs.T @ error + mu * (w - given["w"].numpy()))).astype(np.float32)
            b = (b - lr * error.sum(axis=0)).astype(np.float32)
        trained = {"w": Array(w), "seen": None, "b": Array(b)}
        if "seen" in given:
            trained["seen"] = Array(np.asarray(given["seen"].numpy() + steps + partition))
        arrays = ArrayRecord({name: array for name, array in trained.items() if array is not None})
        metrics = MetricRecord({"num-examples": len(labels), "train_loss": loss})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app
