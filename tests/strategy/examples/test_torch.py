"""Flower's examples with PyTorch, in our sizes: state dicts, metrics of all kinds, a rate a round, own loops."""

import json

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result

from tests.strategy.examples import nets
from tests.strategy.examples.example import ALL, Example, agree, delivered, replied

pytestmark = pytest.mark.slow


def partition_of(context):
    """A partition, or what a device is told in its config."""
    return int(context.node_config.get("partition-id", context.node_config.get("dataset-path", 0)))


def torch_client(make, *, loss=None, metrics=lambda context: {}, lr=None):
    """A ClientApp as in most examples: load the state dict, train, send the state dict."""

    def client(mods):
        app = ClientApp(mods=list(mods))

        @app.train()
        def train(message, context):
            net, partition = make(), partition_of(context)
            net.load_state_dict(message.content["arrays"].to_torch_state_dict())
            config = message.content["config"]
            how = {} if loss is None else {"loss": loss(partition)}
            found = nets.fitted(net, partition, config["server-round"], lr or config["lr"], **how)
            numbers = {"train_loss": found, "num-examples": 20 + partition, **metrics(context)}
            return replied(message, ArrayRecord(net.state_dict()), numbers)

        @app.evaluate()
        def evaluate(message, context):
            net, partition = make(), partition_of(context)
            net.load_state_dict(message.content["arrays"].to_torch_state_dict())
            numbers = {"loss": 1.0} if loss else nets.measured(net, partition)
            return replied(message, None, {**numbers, "num-examples": 20 + partition})

        return app

    return client


def torch_server(make, strategy, *, rounds=3, lr=0.1, central=True):
    """A ServerApp as in most examples: FedAvg, an evaluation on the server, the model saved at the end."""

    def central_evaluate(number, arrays):
        net = make()
        net.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord(nets.measured(net, 99))

    def server(grid, adopt, folder):
        result = adopt(strategy()).start(
            grid=grid,
            initial_arrays=ArrayRecord(make().state_dict()),
            train_config=ConfigRecord({"lr": lr}),
            num_rounds=rounds,
            evaluate_fn=central_evaluate if central else None,
        )
        for name, value in result.arrays.to_torch_state_dict().items():
            np.save(folder / f"{name}.npy", value.float().numpy())
        return result

    return server


def mean_of_all(records, weighted_by):
    """Metrics averaged without weights, as the example of custom metrics does."""
    found = [next(iter(each.metric_records.values())) for each in records]
    names = [name for name in found[0] if name != weighted_by]
    return MetricRecord({f"mean_{name}": float(np.mean([each[name] for each in found])) for name in names})


def worst_epsilon(records, weighted_by):
    """The largest privacy loss of all clients, as the example of Opacus does."""
    spent = [each["metrics"]["epsilon"] for each in records]
    return MetricRecord({"max_epsilon": max(spent), "mean_epsilon": sum(spent) / len(spent)})


def spent(context):
    return {"epsilon": 1.0 + partition_of(context) / 7, "target_delta": 1e-5}


def reconstructs(partition):
    return nets.reconstruction(nets.data(partition)[0])


EXAMPLES = {
    "quickstart-pytorch": Example(
        torch_server(nets.convolution, lambda: FedAvg(fraction_evaluate=0.5)), torch_client(nets.convolution)
    ),
    "app-pytorch, a part of all trains": Example(
        torch_server(nets.convolution, lambda: FedAvg(fraction_train=0.5)), torch_client(nets.convolution)
    ),
    "quickstart-monai": Example(
        torch_server(nets.normalised, lambda: FedAvg(**ALL)), torch_client(nets.normalised, lr=0.05)
    ),
    "nanogpt-shakespeare": Example(
        torch_server(nets.Tied, lambda: FedAvg(fraction_evaluate=0.5)), torch_client(nets.Tied)
    ),
    "fl-tabular": Example(torch_server(nets.Headed, FedAvg, central=False), torch_client(nets.Headed, lr=0.05)),
    "pytorch-federated-variational-autoencoder": Example(
        torch_server(nets.Autoencoder, lambda: FedAvg(**ALL), central=False),
        torch_client(nets.Autoencoder, loss=reconstructs),
    ),
    "embedded-devices": Example(
        torch_server(nets.convolution, lambda: FedAvg(**ALL), central=False),
        torch_client(nets.convolution),
        node_config={"dataset-path": "3"},
        partitioned=False,
    ),
    "custom-metrics": Example(
        torch_server(nets.convolution, lambda: FedAvg(**ALL, evaluate_metrics_aggr_fn=mean_of_all)),
        torch_client(nets.convolution),
    ),
    "opacus": Example(
        torch_server(
            nets.convolution,
            lambda: FedAvg(**ALL, train_metrics_aggr_fn=worst_epsilon, evaluate_metrics_aggr_fn=mean_of_all),
        ),
        torch_client(nets.convolution, metrics=spent),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_ends_as_it_does_without_us(tmp_path, name):
    found = agree(EXAMPLES[name], tmp_path)
    assert delivered(found, "full", "delta", "none")
    assert "delta" in found.rows[-1].plans


class Tracked(FedAvg):
    """Flower's loop as the advanced examples copy it: a tracker, results in a file, the best model kept."""

    def keep_in(self, folder, run):
        self.folder, self.run = folder, run

    def configure_train(self, server_round, arrays, config, grid):
        if server_round == 3:
            config["lr"] = config["lr"] * 0.5
        return super().configure_train(server_round, arrays, config, grid)

    def start(
        self,
        grid,
        initial_arrays,
        num_rounds=3,
        timeout=3600,
        train_config=None,
        evaluate_config=None,
        evaluate_fn=None,
    ):
        self.best, self.tracker, result, arrays = 0.0, [self.run], Result(), initial_arrays
        self.summary()
        evaluate_config = evaluate_config or ConfigRecord()
        result.evaluate_metrics_serverapp[0] = evaluate_fn(0, arrays)
        for number in range(1, num_rounds + 1):
            replies = grid.send_and_receive(
                messages=self.configure_train(number, arrays, train_config, grid), timeout=timeout
            )
            made, metrics = self.aggregate_train(number, replies)
            if made is not None:
                result.arrays = arrays = made
            result.train_metrics_clientapp[number] = metrics
            self.tracker.append({"round": number, "lr": train_config["lr"], **metrics})
            replies = grid.send_and_receive(
                messages=self.configure_evaluate(number, arrays, evaluate_config, grid), timeout=timeout
            )
            result.evaluate_metrics_clientapp[number] = self.aggregate_evaluate(number, replies)
            found = result.evaluate_metrics_serverapp[number] = evaluate_fn(number, arrays)
            if found["accuracy"] > self.best:
                self.best = found["accuracy"]
                np.save(self.folder / f"best-{number}.npy", arrays["head.weight"].numpy())
            (self.folder / "results.json").write_text(json.dumps(self.tracker))
        return result


def tracked_server(**sampling):
    def server(grid, adopt, folder):
        strategy = adopt(Tracked(**sampling))
        strategy.keep_in(folder, "today")
        net = nets.Headed()

        def central_evaluate(number, arrays):
            net.load_state_dict(arrays.to_torch_state_dict())
            return MetricRecord(nets.measured(net, 99))

        return strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(net.state_dict()),
            train_config=ConfigRecord({"lr": 0.1}),
            num_rounds=4,
            evaluate_fn=central_evaluate,
        )

    return server


def headed_client(mods):
    """Every client keeps a head of its own in its context, for training and evaluation."""
    app = ClientApp(mods=list(mods))

    def loaded(message, context):
        net = nets.Headed()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        if "own-head" in context.state:
            net.head.load_state_dict(context.state["own-head"].to_torch_state_dict())
        return net, context.node_config["partition-id"]

    @app.train()
    def train(message, context):
        net, partition = loaded(message, context)
        config = message.content["config"]
        loss = nets.fitted(net, partition, config["server-round"], config["lr"])
        context.state["own-head"] = ArrayRecord(net.head.state_dict())
        assert list(context.state) == ["own-head"]
        return replied(message, ArrayRecord(net.state_dict()), {"train_loss": loss, "num-examples": 20 + partition})

    @app.evaluate()
    def evaluate(message, context):
        net, partition = loaded(message, context)
        return replied(message, None, {**nets.measured(net, partition), "num-examples": 20 + partition})

    return app


def test_advanced_pytorch_ends_as_it_does_without_us(tmp_path):
    found = agree(Example(tracked_server(fraction_train=0.5), headed_client), tmp_path)
    assert {"results.json"} < set(found.files)
    rates = [row["lr"] for row in json.loads(found.files["results.json"])[1:]]
    assert rates == [0.1, 0.1, 0.05, 0.05]
    assert [row.version for row in found.rows] == [0, 1, 2, 3, 4]
