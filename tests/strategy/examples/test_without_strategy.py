"""Flower's examples that have no strategy: queries, split models, trees in a config; their server talks to the Grid.

There is nothing to wrap, and nothing that a version could be of. The line on the client, in a ClientApp that serves
other apps as well, changes nothing of them.
"""

import json
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.client import versioned_mod
from tests.fleet import FleetGrid

NODES = 3


def sent(grid, kind, content=lambda at: RecordDict(), group="1"):
    """Send a message to every node; returns the replies by partition."""
    nodes = sorted(grid.get_node_ids(), key=grid.number)
    messages = [
        Message(content(at), message_type=kind, dst_node_id=node, group_id=group) for at, node in enumerate(nodes)
    ]
    return sorted(grid.send_and_receive(messages), key=lambda each: grid.number(each.metadata.src_node_id))


def analytics_client(mods):
    app = ClientApp(mods=mods)

    @app.query()
    def query(message, context):
        values = np.random.default_rng(context.node_config["partition-id"]).normal(size=20)
        found = {}
        for name in message.content["config"]["selected_features"]:
            found |= {f"{name}_mean_sum": float(values.sum()), f"{name}_mean_count": len(values)}
        counts = [int(each) for each in np.histogram(values, bins=4)[0]]
        return Message(RecordDict({"query_results": MetricRecord({**found, "histogram": counts})}), reply_to=message)

    return app


def analytics_server(grid):
    """As the examples of analytics and of pandas: sums and histograms of what every node has."""
    ask = RecordDict(
        {"config": ConfigRecord({"selected_features": ["age", "height"], "feature_aggregation": ["mean"]})}
    )
    replies = [reply.content["query_results"] for reply in sent(grid, "query", lambda at: ask)]
    sums = {key: sum(each[key] for each in replies) for key in replies[0] if key != "histogram"}
    return {**sums, "histogram": np.sum([each["histogram"] for each in replies], axis=0).tolist()}


def survival_client(mods):
    app = ClientApp(mods=mods)

    @app.query()
    def query(message, context):
        draw = np.random.default_rng(context.node_config["partition-id"])
        size = 5 + 3 * context.node_config["partition-id"]
        arrays = ArrayRecord({"T": Array(draw.exponential(size=size)), "E": Array(draw.integers(0, 2, size=size))})
        return Message(
            RecordDict({"survival-data": arrays, "metrics": MetricRecord({"num-examples": size})}), reply_to=message
        )

    return app


def survival_server(grid):
    """As the example of Kaplan and Meier: arrays of another length from every node, put one behind the other."""
    replies = [reply.content["survival-data"] for reply in sent(grid, "query")]
    times = np.concatenate([each["T"].numpy() for each in replies])
    events = np.concatenate([each["E"].numpy() for each in replies])[np.argsort(times)]
    at_risk = np.arange(len(times), 0, -1)
    return np.cumprod(1 - events / at_risk).tolist()


def split_client(mods):
    """As the vertical example: an embedding on request, and its gradient in a handler of another name."""
    app = ClientApp(mods=mods)

    def weights(context):
        if "model" not in context.state:
            draw = np.random.default_rng(context.node_config["partition-id"])
            context.state["model"] = ArrayRecord({"w": Array(draw.normal(size=(4, 2)))})
        return context.state["model"]["w"].numpy()

    def features(context):
        return np.random.default_rng(40 + context.node_config["partition-id"]).normal(size=(10, 4))

    @app.query("generate_embeddings")
    def embed(message, context):
        arrays = ArrayRecord({"embedding": Array(features(context) @ weights(context))})
        config = ConfigRecord({"pos": context.node_config["partition-id"]})
        return Message(RecordDict({"arrays": arrays, "config": config}), reply_to=message)

    @app.train("apply_gradients")
    def apply(message, context):
        gradient = message.content["gradients"]["local-gradients"].numpy()
        moved = weights(context) - 0.1 * features(context).T @ gradient
        context.state["model"] = ArrayRecord({"w": Array(moved)})
        return Message(RecordDict(), reply_to=message)

    return app


def split_server(grid):
    """The head is the server's; gradients are pushed, and nobody waits for the replies."""
    head, losses = np.full((2 * NODES, 1), 0.1), []
    for _ in range(4):
        replies = {reply.content["config"]["pos"]: reply for reply in sent(grid, "query.generate_embeddings")}
        together = np.concatenate([replies[at].content["arrays"]["embedding"].numpy() for at in range(NODES)], axis=1)
        apart = together @ head - 1.0
        losses.append(float((apart**2).mean()))
        gradients = np.split(apart @ head.T / len(apart), NODES, axis=1)
        head = head - 0.1 * together.T @ apart / len(apart)
        grid.push_messages(
            [
                Message(
                    RecordDict({"gradients": ArrayRecord({"local-gradients": Array(gradients[at])})}),
                    message_type="train.apply_gradients",
                    dst_node_id=reply.metadata.src_node_id,
                )
                for at, reply in replies.items()
            ]
        )
    return losses


def trees_client(mods):
    """As the example with CatBoost: a model in the bytes of a config, which grows from round to round."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message, context):
        grown = json.loads(message.content["gmodel"]["model"] or b"[]")
        tree = {"id": len(grown), "by": context.node_config["partition-id"]}
        made = ConfigRecord({"AUC": 0.5 + len(grown) / 100, "model_dict": json.dumps([tree]).encode()})
        return Message(RecordDict({"metric_and_model": made}), reply_to=message)

    return app


def trees_server(grid):
    model = b""
    for number in range(3):
        given = partial(RecordDict, {"gmodel": ConfigRecord({"model": model})})
        answers = sent(grid, "train", lambda at, content=given: content(), f"{number}")
        replies = [reply.content["metric_and_model"] for reply in answers]
        grown = [tree for each in replies for tree in json.loads(each["model_dict"])]
        model = json.dumps(json.loads(model or b"[]") + grown).encode()
    return model.decode()


def documents_client(mods):
    """As the example of retrieval: questions in a config, documents in a config."""
    app = ClientApp(mods=mods)

    @app.query()
    def query(message, context):
        asked, at = message.content["config"], context.node_config["partition-id"]
        found = [f"{asked['corpus_name']}-{at}-{each}" for each in range(asked["knn"])]
        scores = [1.0 / (1 + each + at) for each in range(asked["knn"])]
        return Message(
            RecordDict({"docs_n_scores": ConfigRecord({"documents": found, "scores": scores})}), reply_to=message
        )

    return app


def documents_server(grid):
    def ask(at):
        return RecordDict({"config": ConfigRecord({"question": "why?", "knn": 2, "corpus_name": f"c{at}"})})

    found = [reply.content["docs_n_scores"] for reply in sent(grid, "query", ask)]
    return [pair for each in found for pair in zip(each["scores"], each["documents"], strict=True)]


APPS = {
    "federated-analytics, quickstart-pandas": (analytics_client, analytics_server),
    "federated-kaplan-meier-fitter": (survival_client, survival_server),
    "vertical-fl": (split_client, split_server),
    "quickstart-catboost": (trees_client, trees_server),
    "fedrag": (documents_client, documents_server),
}


@pytest.mark.parametrize("name", APPS)
def test_the_line_on_the_client_changes_nothing(name):
    client, server = APPS[name]
    with_it, without = (FleetGrid(app=client(mods), size=NODES) for mods in ([versioned_mod], []))
    assert server(with_it) == server(without)
    assert [(each.node_id, each.way, each.nbytes) for each in with_it.log] == [
        (each.node_id, each.way, each.nbytes) for each in without.log
    ]
    assert [list(context.state) for context in with_it.contexts.values()] == [
        list(context.state) for context in without.contexts.values()
    ]
