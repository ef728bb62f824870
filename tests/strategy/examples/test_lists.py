"""Flower's examples with weights in a list (Keras, JAX, MLX, scikit-learn), and those that leave replies out."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from tests.strategy.examples.example import ALL, NODES, Example, agree, delivered, listed, replied

FEATURES, CLASSES = 12, 3


def points(partition, size=30):
    draw = np.random.default_rng(50 + partition)
    labels = draw.integers(0, CLASSES, size=size)
    return draw.normal(size=(size, FEATURES)) + labels[:, None], labels


def descended(weights, partition, steps=5, rate=0.05):
    """Logistic regression by hand: the weights after some steps, in their dtypes, and the loss."""
    coefficients, intercept = (np.array(each) for each in weights)
    inputs, labels = points(partition)
    for _ in range(steps):
        scores = inputs @ coefficients.T + intercept
        chances = np.exp(scores - scores.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        apart = chances - np.eye(CLASSES)[labels]
        coefficients = (coefficients - rate * apart.T @ inputs / len(labels)).astype(weights[0].dtype)
        intercept = (intercept - rate * apart.mean(0)).astype(weights[1].dtype)
    return [coefficients, intercept], float(-np.log(chances[np.arange(len(labels)), labels]).mean())


def list_client(mods):
    """Weights as a list; `dense` is the layer that advanced-tensorflow keeps in the context."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        partition = context.node_config["partition-id"]
        weights, loss = descended(message.content["arrays"].to_numpy_ndarrays(), partition)
        return replied(message, ArrayRecord(weights), {"train_logloss": loss, "num-examples": 20 + partition})

    @app.evaluate()
    def evaluate(message, context):
        partition = context.node_config["partition-id"]
        _, loss = descended(message.content["arrays"].to_numpy_ndarrays(), partition, steps=1)
        return replied(message, None, {"test_logloss": loss, "num-examples": 7})

    return app


def keeping_client(mods):
    app = ClientApp(mods=list(mods))

    def loaded(message, context):
        weights = message.content["arrays"].to_numpy_ndarrays()
        if "classification-head" in context.state:
            weights[1] = context.state["classification-head"].to_numpy_ndarrays()[0]
        return weights, context.node_config["partition-id"]

    @app.train()
    def train(message, context):
        weights, partition = loaded(message, context)
        weights, loss = descended(weights, partition, rate=message.content["config"]["lr"])
        context.state["classification-head"] = ArrayRecord(weights[1:])
        return replied(message, ArrayRecord(weights), {"train_loss": loss, "num-examples": 20 + partition})

    @app.evaluate()
    def evaluate(message, context):
        weights, partition = loaded(message, context)
        return replied(message, None, {"eval_loss": descended(weights, partition, 1)[1], "num-examples": 9})

    return app


def list_server(dtype, strategy, *, order="C", rounds=3):
    def server(grid, adopt, folder):
        first = np.asarray(np.random.default_rng(1).normal(size=(CLASSES, FEATURES)).astype(dtype), order=order)
        result = adopt(strategy()).start(
            grid=grid,
            initial_arrays=listed([first, np.zeros(CLASSES, dtype)]),
            train_config=ConfigRecord({"lr": 0.05}),
            num_rounds=rounds,
        )
        for at, value in enumerate(result.arrays.to_numpy_ndarrays()):
            np.save(folder / f"{at}.npy", value)
        return result

    return server


LISTS = {
    "sklearn-logreg-mnist": Example(list_server("f8", lambda: FedAvg(**ALL)), list_client),
    "quickstart-sklearn-tabular": Example(list_server("f8", lambda: FedAvg(**ALL), order="F"), list_client),
    "quickstart-tensorflow": Example(list_server("f4", lambda: FedAvg(fraction_train=0.5)), list_client),
    "quickstart-jax": Example(list_server("f4", lambda: FedAvg(fraction_train=0.4)), list_client),
    "half precision": Example(list_server("f2", lambda: FedAvg(**ALL)), list_client),
    "advanced-tensorflow": Example(list_server("f4", lambda: FedAvg(**ALL)), keeping_client),
}


@pytest.mark.parametrize("name", LISTS)
def test_it_ends_as_it_does_without_us(tmp_path, name):
    found = agree(LISTS[name], tmp_path)
    assert list(found.arrays) == ["0", "1"]
    assert delivered(found, "full", "delta", "none")


class Exclusive(FedAvg):
    """As the example with Whisper: who had too few examples to train says so, and is left out."""

    def aggregate_train(self, server_round, replies):
        found = []
        for reply in replies:
            if reply.has_content():
                (name,) = reply.content.config_records
                if reply.content[name]["trained"]:
                    found.append(reply)
        self.included = (*getattr(self, "included", ()), (len(found), len(replies)))
        return super().aggregate_train(server_round, found)


def idle_client(mods):
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        partition, number = context.node_config["partition-id"], message.content["config"]["server-round"]
        weights = message.content["arrays"].to_numpy_ndarrays()
        idle = (partition + number) % NODES < {1: 1, 2: 2, 3: NODES, 4: 1}[number]
        metrics = {}
        if not idle:
            weights, loss = descended(weights, partition)
            metrics = {"train_loss": loss, "num-examples": 20 + partition}
        return replied(message, ArrayRecord(weights), metrics, config=ConfigRecord({"trained": not idle}))

    return app


def exclusive_server(grid, adopt, folder):
    strategy = adopt(Exclusive(**{**ALL, "fraction_evaluate": 0.0}))

    def central_evaluate(number, arrays):
        return MetricRecord({"val_loss" if number < 4 else "test_loss": descended(arrays.to_numpy_ndarrays(), 99)[1]})

    result = strategy.start(
        grid=grid,
        initial_arrays=listed([np.zeros((CLASSES, FEATURES), "f4"), np.zeros(CLASSES, "f4")]),
        num_rounds=4,
        evaluate_fn=central_evaluate,
    )
    (folder / "included.txt").write_text(repr(strategy.included))
    return result


def test_whisper_federated_finetuning_ends_as_it_does_without_us(tmp_path):
    found = agree(Example(exclusive_server, idle_client), tmp_path)
    assert found.files["included.txt"].decode() == "((2, 3), (1, 3), (0, 3), (2, 3))"
