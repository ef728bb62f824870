"""Flower's examples with mods of their own: trackers, sizes, privacy; before the mod of flserve and behind it."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import (
    LocalDpMod,
    adaptiveclipping_mod,
    arrays_size_mod,
    fixedclipping_mod,
    message_size_mod,
)
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)

from tests.strategy.examples.example import ALL, NODES, Example, agree, delivered, ended, named, replied, same

SHAPES = {"conv.weight": (6, 5), "fc.weight": (5, 4), "fc.bias": (4,)}


def tracker(runs):
    """As the example's mods for trackers: the round is read from every message, the metrics of every reply are kept."""

    def mod(message, context, call_next):
        number, kind = message.content["config"]["server-round"], message.metadata.message_type
        run = runs.setdefault(context.node_config["partition-id"], [])
        if number == 1 and kind == "train":
            run.append("began")
        reply = call_next(message, context)
        if reply.has_content() and reply.metadata.message_type in ("train", "evaluate"):
            run.append(
                {"kind": kind, "server-round": number, **dict(reply.content.metric_records.get("metrics") or {})}
            )
        return reply

    return mod


def client_of(before=(), behind=(), handler=()):
    """A ClientApp with mods before flserve's, behind it, or on the handler for training."""

    def client(mods):
        app = ClientApp(mods=[*before, *mods, *behind])

        @app.train(mods=list(handler))
        def train(message, context):
            number, partition = message.content["config"]["server-round"], context.node_config["partition-id"]
            draw = np.random.default_rng([number, partition])
            tensors = {name: array.numpy() for name, array in message.content["arrays"].items()}
            moved = {name: value + 0.05 * draw.normal(size=value.shape).astype("f4") for name, value in tensors.items()}
            return replied(message, named(moved), {"train_loss": 1.0 / number, "num-examples": 10 + partition})

        @app.evaluate()
        def evaluate(message, context):
            total = float(sum(np.abs(array.numpy()).sum() for array in message.content["arrays"].values()))
            return replied(message, None, {"eval_loss": total, "num-examples": 5})

        return app

    return client


def server_of(strategy):
    def server(grid, adopt, folder):
        draw = np.random.default_rng(3)
        first = named({name: draw.normal(size=shape).astype("f4") for name, shape in SHAPES.items()})
        return adopt(strategy()).start(
            grid=grid, initial_arrays=first, train_config=ConfigRecord({"lr": 0.1}), num_rounds=3
        )

    return server


def fedavg(**settings):
    return FedAvg(**{**ALL, **settings})


@pytest.mark.parametrize("place", ["before", "behind"])
def test_custom_mods_track_what_they_track_without_us(tmp_path, place):
    """In front of flserve's, a mod sees the greeting too: one message more, which has no arrays and no metrics."""
    plain, adopted = {}, {}

    def run(runs, **how):
        return ended(Example(server_of(fedavg), client_of(**{place: [tracker(runs)]})), tmp_path, **how)

    found = run(adopted, adopted=True)
    same(found, run(plain, adopted=False))
    assert "delta" in found.rows[-1].plans, "clients with a mod in front are versioned all the same"
    greeting = ["began", {"kind": "train", "server-round": 1}]
    for partition, run in adopted.items():
        mine = run[len(greeting) :] if place == "before" else run
        assert place == "behind" or run[: len(greeting)] == greeting
        assert mine == plain[partition]


def adaptive():
    return DifferentialPrivacyClientSideAdaptiveClipping(
        fedavg(fraction_evaluate=0.0), noise_multiplier=0.0, num_sampled_clients=NODES, initial_clipping_norm=0.3
    )


def fixed(kind):
    return lambda: kind(fedavg(fraction_evaluate=0.0), 0.0, 0.3, NODES)


def unnoisy():
    """Its noise is drawn anew in every run, and with this budget there is next to none: what is left is clipping."""
    return LocalDpMod(clipping_norm=0.3, sensitivity=0.0, epsilon=1.0, delta=1e-5)


MODS = {
    "fl-dp-sa's clipping at the clients": (fixed(DifferentialPrivacyClientSideFixedClipping), [fixedclipping_mod]),
    "clipping that adapts": (adaptive, [adaptiveclipping_mod]),
    "clipping on the server": (fixed(DifferentialPrivacyServerSideFixedClipping), []),
    "local privacy": (lambda: fedavg(fraction_evaluate=0.0), [unnoisy()]),
    "sizes": (fedavg, [arrays_size_mod, message_size_mod]),
}


@pytest.mark.parametrize("place", ["behind", "handler"])
@pytest.mark.parametrize("name", MODS)
def test_mods_of_flower_end_as_they_do_without_us(tmp_path, name, place):
    strategy, mods = MODS[name]
    found = agree(Example(server_of(strategy), client_of(**{place: mods})), tmp_path)
    assert delivered(found, "full", "delta", "none")


@pytest.mark.parametrize("name", MODS)
def test_in_front_they_end_so_too_if_without_versions(tmp_path, name):
    """Mods that need arrays in every message fail on the greeting; their clients get plain arrays."""
    strategy, mods = MODS[name]
    found = agree(Example(server_of(strategy), client_of(before=mods)), tmp_path)
    assert delivered(found, *(["full", "delta", "none"] if name in ("sizes", "clipping on the server") else ["plain"]))
