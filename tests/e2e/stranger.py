"""A stranger's Flower app, written into a folder: its own project, adopting flserve in two lines."""

from __future__ import annotations

from pathlib import Path

PYPROJECT = """
[project]
name = "stranger"
version = "1.0.0"
description = "somebody's app"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "stranger_app:server"
clientapp = "stranger_app:client"

[tool.flwr.app.config]
store = ""
rounds = 3
timeout = 60
resume = false
"""

APP = '''
"""A stranger's app: numpy only; a client that finds its partition's order file obeys it once."""

import os
import sys
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

import flserve_app
from flserve_app.client import versioned_mod
from flserve_app.strategy import VersionedStrategy

ORDERS = Path({orders!r})
server = ServerApp()
client = ClientApp(mods=[versioned_mod])


@server.main()
def main(grid, context):
    config = context.run_config
    strategy = VersionedStrategy(
        FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2),
        store=config["store"], num_clients=2, resume=config["resume"],
        observer=lambda row: print("ROW", row.round, row.version, row.clients, row.failures, row.plans, flush=True),
    )
    weights = np.arange({size}, dtype=np.float32)
    strategy.start(grid, ArrayRecord({{"w": Array(weights)}}), num_rounds=config["rounds"], timeout=config["timeout"])
    print("DONE", strategy.version.number, strategy.version.digest, flush=True)


@client.train()
def train(message, context):
    partition = context.node_config["partition-id"]
    order = ORDERS / str(partition)
    print("FROM", flserve_app.__file__, file=sys.stderr, flush=True)
    if order.exists():
        what = order.read_text()
        order.unlink()
        if what == "die":
            os._exit(9)
        raise RuntimeError("the stranger's app broke")
    weights = message.content["arrays"]["w"].numpy() + np.float32(0.1) * (partition + 1)
    metrics = MetricRecord({{"num-examples": 10}})
    return Message(RecordDict({{"arrays": ArrayRecord({{"w": Array(weights)}}), "m": metrics}}), reply_to=message)
'''


NETWORK = '''
def network(message, context, call_next):
    """Stand where the network is: flip a bit of what passes, down or up, once for each order."""
    server_round = message.content.get("config", {"server-round": "greeting"})["server-round"]
    order = ORDERS / f"{context.node_config['partition-id']}-{server_round}"
    way = order.read_text() if order.exists() else ""
    if way == "down":
        order.unlink()
        flip(message.content)
    reply = call_next(message, context)
    if way == "up":
        order.unlink()
        flip(reply.content)
    return reply


def flip(content):
    array = content["flserve.payload"]["payload"]
    data = bytearray(array.data)
    data[len(data) // 2] ^= 1
    damaged = Array(array.dtype, array.shape, array.stype, bytes(data))
    content["flserve.payload"] = ArrayRecord({"payload": damaged})
'''


def write_stranger(folder: Path, orders: Path, size: int = 2000, *, network: bool = False) -> Path:
    """Write the project, perhaps with a network that obeys orders too; returns its folder."""
    folder.mkdir()
    orders.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    app = APP.format(orders=str(orders), size=size)
    if network:
        app = app.replace("mods=[versioned_mod]", "mods=[network, versioned_mod]")
        app = app.replace("server = ServerApp()", f"{NETWORK}\n\nserver = ServerApp()")
    (folder / "stranger_app.py").write_text(app)
    (folder / "README.md").write_text("# stranger\n")
    return folder
