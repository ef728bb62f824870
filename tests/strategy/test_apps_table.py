"""A table of apps that nobody here wrote: each ends with versions as it does on plain Flower, bit for bit.

A row is a strategy and what its clients do. Both runs go over the same fleet, replies in the order of the nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, FedAvgM, FedMedian, Strategy

from flserve_app.client import versioned_mod
from flserve_app.client.object_size import record_bytes
from flserve_app.errors import AggregateError
from flserve_app.strategy import VersionedStrategy
from tests.fleet import FleetGrid

pytestmark = pytest.mark.slow

CLIENTS, ROUNDS = 4, 3
SAMPLING = {"min_train_nodes": CLIENTS, "min_evaluate_nodes": CLIENTS, "min_available_nodes": CLIENTS}


def record(tensors):
    found = ArrayRecord()
    for name, value in tensors.items():
        found[name] = value if isinstance(value, Array) else Array(np.asarray(value))
    return found


def model():
    draw = np.random.default_rng(3)
    return record(
        {
            "conv.weight": draw.normal(size=(6, 5)).astype("f4"),
            "bn.weight": np.ones(5, "f4"),
            "bn.running_mean": np.zeros(5, "f4"),
            "fc.weight": draw.normal(size=(5, 4)).astype("f4"),
            "fc.bias": np.zeros(4, "f4"),
        }
    )


def numpies(arrays):
    return {name: array.numpy() for name, array in arrays.items()}


def moved(values, number, partition):
    draw = np.random.default_rng([number, partition])
    steps = {name: np.float32(0.01) * draw.normal(size=value.shape).astype("f4") for name, value in values.items()}
    return {name: value + steps[name] if value.dtype.kind == "f" else value for name, value in values.items()}


def answer(message, records, partition, **metrics):
    numbers = MetricRecord({"num-examples": 10 + partition, "loss": 1.0 / (1 + partition), **metrics})
    return Message(RecordDict({**records, "metrics": numbers}), reply_to=message)


def mean(records):
    """Return what a strategy of somebody's own makes of its replies."""
    names = list(records[0])
    return record({name: np.mean([each[name].numpy() for each in records], axis=0) for name in names})


# What clients do: (message, context, partition, round) to a reply.


def trains(message, context, partition, number):
    return answer(message, {"arrays": record(moved(numpies(message.content["arrays"]), number, partition))}, partition)


def scaffold(message, context, partition, number):
    values, variate = numpies(message.content["arrays"]), numpies(message.content["variate"])
    new = moved(values, number, partition)
    change = {name: (values[name] - new[name]) - variate[name] for name in values}
    return answer(message, {"variate": record(change), "arrays": record(new)}, partition)


def keeps_normalisation(message, context, partition, number):
    """As Flower's how-to for FedBN: BatchNorm stays in the context, all else is sent."""
    values = numpies(message.content["arrays"])
    if "batchnorm" in context.state:
        values |= numpies(context.state["batchnorm"])
    new = moved(values, number, partition)
    context.state["batchnorm"] = record({name: value for name, value in new.items() if name.startswith("bn")})
    shared = {name: value for name, value in new.items() if not name.startswith("bn")}
    return answer(message, {"arrays": record(shared)}, partition)


def trains_the_head(message, context, partition, number):
    head = {name: value for name, value in numpies(message.content["arrays"]).items() if name.startswith("fc")}
    return answer(message, {"arrays": record(moved(head, number, partition))}, partition)


def trains_a_part_of_its_own(message, context, partition, number):
    values = numpies(message.content["arrays"])
    part = {name: values[name] for at, name in enumerate(values) if at % 2 == partition % 2}
    return answer(message, {"arrays": record(moved(part, number, partition))}, partition)


def gradients(message, context, partition, number):
    values = numpies(message.content["arrays"])
    found = {name: moved({name: np.zeros_like(value)}, number, partition)[name] for name, value in values.items()}
    return answer(message, {"gradients": record(found)}, partition)


def gradients_under_other_names(message, context, partition, number):
    values = numpies(message.content["arrays"])
    found = {f"grad.{name}": (value * 0.1).astype("f2") for name, value in values.items()}
    return answer(message, {"arrays": record(found)}, partition)


def half(values):
    return {name: value[: (value.shape[0] + 1) // 2] for name, value in values.items()}


def smaller(message, context, partition, number):
    """As HeteroFL: weak clients have the first half of every tensor."""
    values = numpies(message.content["arrays"])
    return answer(
        message, {"arrays": record(moved(half(values) if partition % 2 else values, number, partition))}, partition
    )


def sends_what_it_was_given_more(message, context, partition, number):
    values = moved(numpies(message.content["arrays"]), number, partition)
    return answer(message, {"arrays": record({**values, "extra": np.full(3, partition, "f4")})}, partition)


def without_weight(message, context, partition, number):
    new = record(moved(numpies(message.content["arrays"]), number, partition))
    return Message(RecordDict({"weights": new, "note": ConfigRecord({"at": partition})}), reply_to=message)


def through_prototypes(message, context, partition, number):
    assert message.content["prototypes"]["p"].numpy().tolist() == [number] * 3
    return trains(message, context, partition, number)


# Strategies.


class Scaffold(FedAvg):
    variate = None

    def configure_train(self, server_round, arrays, config, grid):
        self.variate = self.variate or record({name: np.zeros_like(value) for name, value in numpies(arrays).items()})
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content = RecordDict({"variate": self.variate, **message.content})
        return messages

    def aggregate_train(self, server_round, replies):
        found = [reply.content for reply in replies if reply.has_content()]
        self.variate = mean([each["variate"] for each in found])
        return mean([each["arrays"] for each in found]), MetricRecord({"replies": len(found)})


class Merging(FedAvg):
    """Keeps the whole model; replies change what they hold of it."""

    def configure_train(self, server_round, arrays, config, grid):
        self.whole = numpies(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        sums = {name: np.zeros_like(value) for name, value in self.whole.items()}
        counts = {name: np.zeros_like(value) for name, value in self.whole.items()}
        for reply in replies:
            for name, value in numpies(next(iter(reply.content.array_records.values()))).items():
                at = tuple(slice(0, size) for size in value.shape)
                sums[name][at] += value
                counts[name][at] += 1
        merged = {
            name: np.where(counts[name] > 0, sums[name] / np.maximum(counts[name], 1), value).astype(value.dtype)
            for name, value in self.whole.items()
        }
        return record(merged), None


class Descending(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        self.whole = numpies(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        gradient, metrics = super().aggregate_train(server_round, replies)
        steps = {name.removeprefix("grad."): value for name, value in numpies(gradient).items()}
        return record({name: value - np.float32(0.5) * steps[name] for name, value in self.whole.items()}), metrics


class Looks(FedAvg):
    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        assert len(replies) == CLIENTS
        return super().aggregate_train(server_round, replies)


class Halves(FedAvg):
    """Changes what it is given, for the clients alone."""

    def configure_train(self, server_round, arrays, config, grid):
        arrays["fc.weight"] = Array(arrays["fc.weight"].numpy() * np.float32(0.5))
        return super().configure_train(server_round, arrays, config, grid)


class HalvesForEvaluation(FedAvg):
    def configure_evaluate(self, server_round, arrays, config, grid):
        for name in list(arrays):
            arrays[name] = Array(arrays[name].numpy() * np.float32(0.5))
        return super().configure_evaluate(server_round, arrays, config, grid)


class Prunes(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        arrays.pop("fc.bias", None)
        return super().configure_train(server_round, arrays, config, grid)


class Sums(FedAvg):
    """Has one record, changes it in place and returns it again and again."""

    kept = None

    def aggregate_train(self, server_round, replies):
        found, metrics = super().aggregate_train(server_round, replies)
        self.kept = self.kept or found
        for name in found:
            self.kept[name] = Array(self.kept[name].numpy() + found[name].numpy())
        return self.kept, metrics

    def configure_evaluate(self, server_round, arrays, config, grid):
        self.kept["fc.bias"] = Array(self.kept["fc.bias"].numpy() + np.float32(1))
        return super().configure_evaluate(server_round, arrays, config, grid)


class NothingButInPlace(FedAvg):
    """Returns no aggregate: it changes what it was given."""

    def configure_train(self, server_round, arrays, config, grid):
        self.given = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        found, metrics = super().aggregate_train(server_round, replies)
        self.given.update(found)
        return (found if server_round == ROUNDS else None), metrics


class Drops(FedAvg):
    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return record({name: array for name, array in arrays.items() if name != "bn.weight"}), metrics


class Grows(FedAvg):
    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return record({**arrays, f"new.{server_round}": np.full(2, server_round, "f4")}), metrics


class Prototypes(FedAvg):
    def configure_train(self, server_round, arrays, config, grid):
        first = record({"p": np.full(3, server_round, "f4")})
        for message in super().configure_train(server_round, arrays, config, grid):
            message.content = RecordDict({"prototypes": first, **message.content})
            yield message


class SubModels(Merging):
    """Sends each client the part of the model that it can hold."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in sorted(messages, key=lambda each: each.metadata.dst_node_id)[::2]:
            message.content = RecordDict({**message.content, "arrays": record(half(numpies(arrays)))})
        return messages


class OwnStrategy(Strategy):
    """Derives from no strategy of Flower's."""

    def summary(self):
        pass

    def configure_train(self, server_round, arrays, config, grid):
        content = RecordDict({"weights": arrays, "config": ConfigRecord({"server-round": server_round})})
        return [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]

    def aggregate_train(self, server_round, replies):
        return mean([reply.content["weights"] for reply in replies if reply.has_content()]), None

    def configure_evaluate(self, server_round, arrays, config, grid):
        return []

    def aggregate_evaluate(self, server_round, replies):
        return None


def trains_weights(message, context, partition, number):
    message.content["arrays"] = message.content["weights"]
    return without_weight(message, context, partition, number)


def momentum(**settings):
    return FedAvgM(**settings, server_learning_rate=0.5, server_momentum=0.5)


def private(**settings):
    return DifferentialPrivacyServerSideFixedClipping(Halves(**settings), 0.0, 1e6, CLIENTS)


class Unweighted(FedAvg):
    def aggregate_train(self, server_round, replies):
        found = [reply.content for reply in replies if reply.has_content()]
        assert sorted(each["note"]["at"] for each in found) == list(range(CLIENTS))
        return mean([each["weights"] for each in found]), None


def doubling(number, arrays):
    """Evaluate, and change what is evaluated."""
    found = float(sum(np.abs(value).sum() for value in numpies(arrays).values()))
    arrays["conv.weight"] = Array(arrays["conv.weight"].numpy() * np.float32(2))
    return MetricRecord({"loss": found})


@dataclass(frozen=True)
class App:
    """One row: a strategy, its clients, and what evaluates on the server."""

    strategy: Callable[..., Strategy]
    trains: Callable[..., Message] = trains
    evaluate_fn: Callable[..., MetricRecord] | None = None
    settings: dict = field(default_factory=lambda: SAMPLING)


APPS = {
    "Flower's own": App(FedAvg),
    "SCAFFOLD": App(Scaffold, scaffold),
    "FedBN as in the how-to": App(FedAvg, keeps_normalisation),
    "FedBN under FedMedian": App(FedMedian, keeps_normalisation),
    "FedBN and a subclass that looks": App(Looks, keeps_normalisation),
    "frozen layers": App(FedAvg, trains_the_head),
    "frozen layers, merged": App(Merging, trains_the_head),
    "partial models, each another": App(Merging, trains_a_part_of_its_own),
    "gradients": App(Descending, gradients),
    "gradients, other names": App(Descending, gradients_under_other_names),
    "gradients as a model": App(FedAvg, gradients_under_other_names),
    "smaller shapes": App(Merging, smaller),
    "smaller models down": App(SubModels, trains),
    "a tensor more in all replies": App(FedAvg, sends_what_it_was_given_more),
    "replies without a weight": App(Unweighted, without_weight),
    "no strategy of Flower's": App(OwnStrategy, trains_weights, settings={}),
    "changed before training": App(Halves),
    "changed before evaluation": App(HalvesForEvaluation),
    "a tensor taken away before training": App(Prunes),
    "one record for ever": App(Sums),
    "nothing but in place": App(NothingButInPlace),
    "changed before training, under privacy": App(private),
    "evaluate_fn that changes": App(FedAvg, evaluate_fn=doubling),
    "evaluate_fn that changes, own aggregation": App(Scaffold, scaffold, doubling),
    "FedAvgM and evaluate_fn that changes": App(momentum, evaluate_fn=doubling),
    "a tensor dropped": App(Drops),
    "a tensor more a round": App(Grows),
    "another record first": App(Prototypes, through_prototypes),
}


def client(app, mods):
    found = ClientApp(mods=mods)

    @found.train()
    def train(message, context):
        return app.trains(
            message, context, context.node_config["partition-id"], message.content["config"]["server-round"]
        )

    @found.evaluate()
    def evaluate(message, context):
        total = float(sum(np.abs(value).sum() for value in numpies(message.content["arrays"]).values()))
        metrics = MetricRecord({"num-examples": 5, "total": total})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return found


def run(app, mods, wrap=lambda strategy: strategy):
    grid = FleetGrid(app=client(app, mods), size=CLIENTS)
    grid.reply_order = lambda replies: sorted(replies, key=lambda each: grid.number(each.metadata.src_node_id))
    strategy = wrap(app.strategy(**app.settings))
    return strategy.start(grid=grid, initial_arrays=model(), num_rounds=ROUNDS, evaluate_fn=app.evaluate_fn)


def same(found, plain):
    assert list(found.arrays) == list(plain.arrays)
    for name, array in plain.arrays.items():
        assert np.array_equal(found.arrays[name].numpy(), array.numpy()), name
    assert found.train_metrics_clientapp == plain.train_metrics_clientapp
    assert found.evaluate_metrics_clientapp == plain.evaluate_metrics_clientapp
    assert found.evaluate_metrics_serverapp == plain.evaluate_metrics_serverapp


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch):
    monkeypatch.setattr("tests.fleet.seen", lambda *_: None)
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.mark.parametrize("app", APPS.values(), ids=APPS)
def test_an_app_ends_as_it_does_on_plain_flower(tmp_path, app):
    rows = []
    plain = run(app, [])
    found = run(
        app, [versioned_mod], lambda inner: VersionedStrategy(inner, store=tmp_path / "s", observer=rows.append)
    )
    same(found, plain)
    assert [(row.clients, row.failures, row.skipped) for row in rows] == [(0, 0, ""), *[(CLIENTS, 0, "")] * ROUNDS]


def test_clients_without_the_mod_end_there_too(tmp_path):
    for at, app in enumerate((APPS["SCAFFOLD"], APPS["changed before training"], APPS["FedBN as in the how-to"])):

        def wrap(inner, at=at):
            return VersionedStrategy(inner, store=tmp_path / f"s{at}")

        same(run(app, [], wrap), run(app, []))


@pytest.mark.parametrize("name", ["SCAFFOLD", "FedBN as in the how-to", "a tensor more a round", "smaller shapes"])
@pytest.mark.parametrize("codec", ["grid", "topk"])
def test_lossy_codecs_run_as_well(tmp_path, name, codec):
    from flserve_app.codec.lossy import lossy_of

    lossy = lossy_of(codec, {})
    app = APPS[name]
    found = run(app, [versioned_mod], lambda inner: VersionedStrategy(inner, store=tmp_path, codec=lossy, uplink=lossy))
    assert list(found.arrays) == list(run(app, []).arrays)


def observed(tmp_path, app, **options):
    rows = []
    run(app, [versioned_mod], lambda inner: VersionedStrategy(inner, store=tmp_path, observer=rows.append, **options))
    return rows


def test_further_records_are_counted_and_the_model_is_the_one_that_was_published(tmp_path):
    sizes = {}
    for name in ("Flower's own", "another record first"):
        sizes[name] = observed(tmp_path / name, APPS[name])[2]
    alone, beside = sizes.values()
    prototypes = CLIENTS * record_bytes(record({"p": np.zeros(3, "f4")}))
    assert beside.plans == alone.plans == {"delta": CLIENTS, "none": CLIENTS}
    assert beside.bytes_down == alone.bytes_down + prototypes
    assert beside.bytes_down_full == alone.bytes_down_full + prototypes


def test_a_changed_model_is_encoded_once_for_all(tmp_path, monkeypatch):
    from flserve_app.strategy import in_place

    made = []
    original = in_place.to_artifact
    monkeypatch.setattr(in_place, "to_artifact", lambda *a, **k: made.append(1) or original(*a, **k))
    observed(tmp_path / "a", APPS["changed before training"])
    assert len(made) == ROUNDS
    observed(tmp_path / "b", APPS["SCAFFOLD"])
    assert len(made) == ROUNDS


def never(message, context, partition, number):
    return answer(message, {"a": record({"w": np.zeros(2)}), "b": record({"w": np.zeros(2)})}, partition)


def test_a_run_whose_rounds_are_left_out_whole_ends_with_an_error(tmp_path):
    for rounds in (1, 3):
        app = App(FedAvg, never)
        with pytest.raises(AggregateError, match="none of 4 replies can be used: it has 2 ArrayRecords, expected 1"):
            observed(tmp_path / str(rounds), app)


def test_one_that_is_unlike_the_others_costs_them_nothing_under_an_own_aggregation(tmp_path, caplog):
    """Where the strategy fails on it, it is asked again without."""

    def odd(message, context, partition, number):
        found = scaffold(message, context, partition, number)
        if partition == 1:
            found.content["arrays"] = record({"fc.bias": np.zeros(4, "f4")})
        return found

    rows = observed(tmp_path / "s", App(Scaffold, odd))
    assert [(row.clients, row.failures, row.skipped) for row in rows[1:]] == [(CLIENTS - 1, 1, "")] * ROUNDS
    assert "have other names than most replies" in caplog.text


def test_less_than_most_do_not_say_what_the_model_has(tmp_path):
    def some(message, context, partition, number):
        return (trains_the_head if partition < CLIENTS // 2 else trains)(message, context, partition, number)

    rows = observed(tmp_path / "s", App(FedAvg, some))
    assert [(row.clients, row.failures) for row in rows[1:]] == [(CLIENTS // 2, CLIENTS // 2)] * ROUNDS


def test_a_change_of_floats_that_were_given_alone_reaches_the_whole_model(tmp_path):
    given = {}

    def notes(message, context, partition, number):
        given[number, partition] = numpies(message.content["arrays"])
        return trains(message, context, partition, number)

    app = App(private, notes)
    counted = record({**model(), "bn.num_batches_tracked": np.asarray(7)})
    grid = FleetGrid(app=client(app, [versioned_mod]), size=CLIENTS)
    strategy = VersionedStrategy(private(**SAMPLING), store=tmp_path)
    strategy.start(grid=grid, initial_arrays=counted, num_rounds=1)
    assert list(given[1, 0]) == list(counted)
    assert np.array_equal(given[1, 0]["fc.weight"], model()["fc.weight"].numpy() * np.float32(0.5))


def test_evaluate_fn_changes_a_model_with_private_tensors(tmp_path):
    given = {}

    def notes(message, context, partition, number):
        given[number] = numpies(message.content["arrays"])
        return trains(message, context, partition, number)

    app = App(FedAvg, notes, doubling)
    wrap = lambda inner: VersionedStrategy(inner, store=tmp_path, roles={"bn.*": "private"})  # noqa: E731
    run(app, [versioned_mod], wrap)
    assert np.array_equal(given[1]["conv.weight"], model()["conv.weight"].numpy() * np.float32(2))
    assert list(given[1]) == list(model())
