"""Flower's examples that tune large models: adapters alone travel, messages are counted, checkpoints are kept."""

import json
import math

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from tests.strategy.examples.example import Example, agree, replied

ADAPTER = {
    f"base_model.model.layers.{at}.self_attn.{part}_proj.lora_{side}.weight": (4, 16) if side == "A" else (16, 4)
    for at in range(2)
    for part in "qv"
    for side in "AB"
}


class Counting(FedAvg):
    """As FlowerTune's: what is sent and what comes back is counted, record by record."""

    sizes = ()

    def count(self, messages):
        found = [message.content["arrays"] for message in messages if message.has_content()]
        self.sizes = (*self.sizes, sum(array.numpy().nbytes for record in found for array in record.values()))

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self.count(messages)
        return messages

    def aggregate_train(self, server_round, replies):
        self.count(replies)
        return super().aggregate_train(server_round, replies)


def tuning_server(grid, adopt, folder):
    """Adapters alone travel; a checkpoint every second round and after the last; no metrics."""
    draw = np.random.default_rng(5)
    strategy = adopt(Counting(fraction_train=0.5, fraction_evaluate=0.0))
    rounds = 5

    def save(number, arrays):
        if number and (number == rounds or number % 2 == 0):
            (folder / str(number)).mkdir()
            for name, array in arrays.items():
                np.save(folder / str(number) / f"{name}.npy", array.numpy())
        return MetricRecord()

    first = {name: torch.tensor(draw.normal(size=shape), dtype=torch.float32) for name, shape in ADAPTER.items()}
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(first),
        train_config=ConfigRecord({"save_path": "results/today"}),
        num_rounds=rounds,
        evaluate_fn=save,
    )
    (folder / "sizes.json").write_text(json.dumps(strategy.sizes))
    return result


def tuning_client(mods):
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        config, partition = message.content["config"], context.node_config["partition-id"]
        assert config["save_path"] == "results/today"
        rate = 1e-3 + 0.5 * (0.1 - 1e-3) * (1 + math.cos(math.pi * config["server-round"] / 5))
        state = message.content["arrays"].to_torch_state_dict()
        torch.manual_seed(10 * config["server-round"] + partition)
        moved = {name: value - rate * torch.randn_like(value) for name, value in state.items()}
        return replied(message, ArrayRecord(moved), {"train_loss": rate, "num-examples": 10 + partition})

    return app


def test_flowertune_ends_as_it_does_without_us(tmp_path):
    found = agree(Example(tuning_server, tuning_client), tmp_path)
    assert {name.split("/")[0] for name in found.files} == {"2", "4", "5", "sizes.json"}
    assert min(json.loads(found.files["sizes.json"])) == 2 * sum(4 * 4 * 16 for _ in ADAPTER)
