"""Flower's examples that go their own way through a strategy: data in place of a model, votes, layers one at a time."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from tests.strategy.examples.example import ALL, NODES, Example, agree, named, replied


class Fitter(Strategy):
    """As the strategy of the example of Kaplan and Meier: no model goes out, data of any length come back."""

    curve = ()

    def summary(self):
        pass

    def configure_train(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": server_round})})
        return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]

    def aggregate_train(self, server_round, replies):
        found = [reply.content["arrays"] for reply in replies if reply.has_content()]
        times = np.concatenate([each["T"].numpy() for each in found])
        events = np.concatenate([each["E"].numpy() for each in found])[np.argsort(times)]
        self.curve = np.cumprod(1 - events / np.arange(len(times), 0, -1)).tolist()
        return None, MetricRecord({"observed": len(times), "median": float(np.median(times))})

    def configure_evaluate(self, server_round, arrays, config, grid):
        return []

    def aggregate_evaluate(self, server_round, replies):
        return None


def fitter_server(initial):
    def server(grid, adopt, folder):
        strategy = adopt(Fitter())
        result = strategy.start(grid=grid, initial_arrays=initial(), num_rounds=2)
        (folder / "curve.json").write_text(json.dumps(strategy.curve))
        return result

    return server


def fitter_client(mods):
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        partition = context.node_config["partition-id"]
        draw, size = np.random.default_rng(partition), 5 + 3 * partition
        data = {"T": draw.exponential(size=size), "E": draw.integers(0, 2, size=size)}
        return replied(message, named(data), {"num-examples": size})

    return app


def test_data_in_place_of_a_model_come_as_they_do_without_us(tmp_path):
    found = agree(Example(fitter_server(lambda: named({"nothing": np.zeros(1)})), fitter_client), tmp_path)
    assert found.metrics[0][2]["observed"] == sum(5 + 3 * each for each in range(NODES))


def test_a_model_without_tensors_is_one_too(tmp_path):
    agree(Example(fitter_server(ArrayRecord), fitter_client), tmp_path)


class Election(Strategy):
    """As the example of an election of features: votes, then a mask in place of a model, then a model."""

    def __init__(self):
        self.votes, self.mask, self.sent = [], None, 0

    def summary(self):
        pass

    def configure_train(self, server_round, arrays, config, grid):
        phase = "votes" if server_round == 1 else "tuning" if server_round == 2 else "training"
        given = ArrayRecord()
        if phase == "tuning":
            given["feature_mask"] = Array(self.mask)
        if phase == "training":
            given.update(arrays)
        self.sent += sum(array.numpy().nbytes for array in given.values())
        content = RecordDict({"arrays": given, "config": ConfigRecord({"server_round": server_round, "phase": phase})})
        return [Message(content, dst_node_id=node, message_type="train") for node in sorted(grid.get_node_ids())]

    def aggregate_train(self, server_round, results):
        found = [each.content for each in results if each.has_content()]
        if server_round == 1:
            self.votes = [each["arrays"]["feature_mask"].numpy() for each in found]
            self.mask = (np.mean(self.votes, axis=0) > 0.5).astype("f4")
            return named({"feature_mask": self.mask}), MetricRecord({"selected": int(self.mask.sum())})
        if server_round == 2:
            assert not any(each.array_records for each in found)
            accuracy = float(np.mean([each["metrics"]["val_accuracy"] for each in found]))
            return named({"feature_mask": self.mask}), MetricRecord({"val_accuracy": accuracy})
        weights = [each["arrays"] for each in found]
        made = {name: np.mean([each[name].numpy() for each in weights], axis=0) for name in weights[0]}
        return named({"feature_mask": self.mask, **made}), None

    def configure_evaluate(self, server_round, arrays, config, grid):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server_round": server_round})})
        return [Message(content, dst_node_id=node, message_type="evaluate") for node in sorted(grid.get_node_ids())]

    def aggregate_evaluate(self, server_round, results):
        found = [each.content["metrics"]["eval_loss"] for each in results if each.has_content()]
        return MetricRecord({"eval_loss": float(np.mean(found)), "bytes": self.sent})


def election_client(mods):
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        config, partition = message.content["config"], context.node_config["partition-id"]
        draw, given = np.random.default_rng([partition, config["server_round"]]), message.content["arrays"]
        if config["phase"] == "votes":
            assert not list(given)
            mine = (draw.random(9) > 0.4).astype("f4")
            context.state["selected"] = named({"mask": mine})
            return replied(message, named({"feature_mask": mine, "scores": draw.random(9)}), {"num-examples": 5})
        mask = given["feature_mask"].numpy()
        assert list(context.state) == ["selected"]
        if config["phase"] == "tuning":
            return replied(message, None, {"val_accuracy": float(mask.mean()) + partition / 10, "num-examples": 5})
        before = given["weight_0"].numpy() if "weight_0" in given else np.zeros(int(mask.sum()), "f4")
        after = before + draw.normal(size=before.shape).astype("f4")
        return replied(message, named({"weight_0": after, "weight_1": after[:1]}), {"num-examples": 5})

    @app.evaluate()
    def evaluate(message, context):
        total = sum(float(np.abs(array.numpy()).sum()) for array in message.content["arrays"].values())
        return replied(message, None, {"eval_loss": total, "num-examples": 3})

    return app


def election_server(grid, adopt, folder):
    return adopt(Election()).start(grid=grid, initial_arrays=named({"feature_mask": np.ones(9, "f4")}), num_rounds=5)


def test_feature_election_ends_as_it_does_without_us(tmp_path):
    found = agree(Example(election_server, election_client), tmp_path)
    assert list(found.arrays) == ["feature_mask", "weight_0", "weight_1"]
    assert found.rows[-1].plans, "the model of the last phase travels as versions"


class Layered(FedAvg):
    """As FlowerTune's that streams: the model goes down and up layer by layer, past the records of a round."""

    def __init__(self, layers, **settings):
        super().__init__(**settings)
        self.layers = layers

    def configure_train(self, server_round, arrays, config, grid):
        record = RecordDict({"config": ConfigRecord({"server-round": server_round, "names": list(self.layers)})})
        return self._construct_messages(record, sorted(grid.get_node_ids()), "train")

    def aggregate_train(self, server_round, replies):
        found = [each.content for each in replies if each.has_content()]
        return None, self.train_metrics_aggr_fn(found, "num-examples")

    def start(self, grid, initial_arrays, num_rounds=3, timeout=3600, train_config=None, evaluate_fn=None):
        result, nodes = Result(), sorted(grid.get_node_ids())
        for number in range(1, num_rounds + 1):
            for name, value in self.layers.items():
                record = RecordDict({"arrays": named({name: value}), "config": ConfigRecord({"name": name})})
                grid.send_and_receive(self._construct_messages(record, nodes, "train.download"), timeout=timeout)
            replies = grid.send_and_receive(
                self.configure_train(number, initial_arrays, ConfigRecord(), grid), timeout=timeout
            )
            _, result.train_metrics_clientapp[number] = self.aggregate_train(number, replies)
            for name in self.layers:
                ask = RecordDict({"config": ConfigRecord({"name": name})})
                replies = grid.send_and_receive(self._construct_messages(ask, nodes, "train.upload"), timeout=timeout)
                self.layers[name] = np.mean([each.content["arrays"][name].numpy() for each in replies], axis=0)
            result.arrays = named(self.layers)
            if evaluate_fn is not None:
                result.evaluate_metrics_serverapp[number] = evaluate_fn(number, result.arrays)
        return result


def layered_client(mods):
    app = ClientApp(mods=list(mods))

    @app.train("download")
    def download(message, context):
        context.state[message.content["config"]["name"]] = message.content["arrays"]
        return Message(RecordDict(), reply_to=message)

    @app.train()
    def train(message, context):
        number, partition = message.content["config"]["server-round"], context.node_config["partition-id"]
        for name in message.content["config"]["names"]:
            value = context.state[name][name].numpy()
            draw = np.random.default_rng([number, partition])
            context.state[name] = named({name: value + draw.normal(size=value.shape).astype("f4")})
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": 4 + partition, "loss": 1.0})}), reply_to=message
        )

    @app.train("upload")
    def upload(message, context):
        name = message.content["config"]["name"]
        return replied(message, context.state[name], {"num-examples": 4})

    return app


def layered_server(grid, adopt, folder):
    draw = np.random.default_rng(2)
    layers = {f"layer.{at}": draw.normal(size=(4, 3)).astype("f4") for at in range(3)}
    strategy = adopt(Layered(layers, **ALL))
    return strategy.start(grid=grid, initial_arrays=ArrayRecord(), num_rounds=2, evaluate_fn=lambda *_: MetricRecord())


def test_layers_one_at_a_time_end_as_they_do_without_us(tmp_path):
    agree(Example(layered_server, layered_client), tmp_path)
