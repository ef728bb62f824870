"""Models as strangers bring them: BatchNorm, FedAdam, bfloat16."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
)
from torch import nn

from flserve_app.artifact import Artifact
from flserve_app.client import versioned_mod
from flserve_app.client.integers import floats_only
from flserve_app.client.records import to_artifact
from flserve_app.task.state import to_artifact as state_artifact
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

CLIENTS, ROUNDS = 3, 4


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def data(partition):
    draw = np.random.default_rng(partition)
    labels = draw.integers(0, 3, size=24)
    inputs = draw.normal(size=(24, 8)) + 2 * np.eye(8)[labels]
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)


def stranger(mods, dtype=torch.float32):
    """A ClientApp as in Flower's tutorials; it knows nothing of flserve."""
    app = ClientApp(mods=mods)

    @app.train()
    def train(message, context):
        torch.set_num_threads(1)
        model = net(seed=99).to(dtype)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs, labels = data(context.node_config["partition-id"])
        for start in range(0, 24, 8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(
                model(inputs[start : start + 8].to(dtype)).float(), labels[start : start + 8]
            )
            loss.backward()
            optimizer.step()
        state = {
            name: value.float() if dtype is torch.bfloat16 and value.is_floating_point() else value
            for name, value in model.state_dict().items()
        }
        metrics = MetricRecord({"num-examples": 24, "train_loss": loss.item()})
        return Message(RecordDict({"arrays": ArrayRecord(state), "metrics": metrics}), reply_to=message)

    return app


def by_partition(grid):
    """Hand replies over in the order of the partitions, as flserve does."""
    grid.reply_order = lambda replies: sorted(replies, key=lambda reply: grid.number(reply.metadata.src_node_id))
    return grid


def fedadam(kind=FedAdam):
    return kind(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS, eta=0.05, tau=1e-3)


class Restored(FedAdam):
    """Plain FedAdam that hands its aggregate on in the dtypes of the model."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        dtypes = {name: value.numpy().dtype for name, value in net().state_dict().items()}
        cast = {}
        for name, array in arrays.items():
            value, dtype = array.numpy(), dtypes[name]
            cast[name] = Array(np.asarray(np.rint(value) if dtype.kind == "i" else value).astype(dtype))
        return ArrayRecord(cast), metrics


@pytest.fixture(scope="module")
def initial():
    return ArrayRecord(net().state_dict())


@pytest.fixture
def versioned(tmp_path, initial):
    grid = FleetGrid(app=stranger([versioned_mod]), size=CLIENTS)
    return federate(tmp_path / "s", grid=grid, inner=fedadam(), rounds=ROUNDS, initial=initial)


def plain(kind, initial):
    grid = by_partition(FleetGrid(app=stranger([]), size=CLIENTS))
    return fedadam(kind).start(grid=grid, initial_arrays=initial, num_rounds=ROUNDS)


def test_a_strangers_app_under_fedadam_trains_bit_for_bit_as_without_flserve(versioned, initial):
    """Against FedAdam whose aggregate has the model's dtypes: all arrays and losses are equal."""
    alone = plain(Restored, initial)
    assert to_artifact(versioned.result.arrays) == to_artifact(alone.arrays)
    assert versioned.result.train_metrics_clientapp == alone.train_metrics_clientapp
    losses = [row.metrics["train_loss"] for row in versioned.rows[1:]]
    assert losses == [alone.train_metrics_clientapp[number]["train_loss"] for number in range(1, ROUNDS + 1)]
    assert losses[-1] < losses[0]


def test_and_within_float32_rounding_as_under_fedadam_as_it_is(versioned, initial):
    """FedAdam alone keeps its arrays in float64 from round to round; a version has float32, as the model."""
    alone = plain(FedAdam, initial)
    for number in range(1, ROUNDS + 1):
        ours = versioned.result.train_metrics_clientapp[number]["train_loss"]
        assert ours == pytest.approx(alone.train_metrics_clientapp[number]["train_loss"], rel=1e-4)
    for name, array in versioned.result.arrays.items():
        if "num_batches" not in name:
            assert array.numpy() == pytest.approx(alone.arrays[name].numpy(), abs=1e-4)


def test_every_version_has_the_dtypes_and_the_order_of_the_model(versioned):
    state = net().state_dict()
    for version in versioned.registry.versions("model"):
        artifact = versioned.registry.load(version)
        assert list(artifact) == list(state)
        assert all(artifact[name].dtype == value.numpy().dtype for name, value in state.items())
        assert all(artifact[name].shape == tuple(value.shape) for name, value in state.items())


def test_batchnorms_counter_counts_on_under_fedavg(tmp_path, initial):
    grid = FleetGrid(app=stranger([versioned_mod]), size=CLIENTS)
    run = federate(tmp_path / "s", grid=grid, rounds=ROUNDS, initial=initial)
    counts = [int(run.registry.load(version)["1.num_batches_tracked"]) for version in run.registry.versions("model")]
    assert counts == [0, 3, 6, 9, 12]


@pytest.fixture(scope="module")
def half():
    """The model in bfloat16, as an artifact: an ArrayRecord cannot hold it."""
    return state_artifact(net().to(torch.bfloat16))


@pytest.mark.parametrize("codec", ["full", "lossless", "lossless-small"])
def test_a_bfloat16_model_stays_bfloat16_from_end_to_end(tmp_path, half, codec, reference):
    grid = FleetGrid(app=stranger([versioned_mod], torch.bfloat16), size=CLIENTS)
    run = federate(
        tmp_path / codec, grid=grid, initial=half, rounds=2, codec=codec, uplink=codec, inner=fedavg(3, 3, 0)
    )
    versions = run.registry.versions("model")
    artifacts = [run.registry.load(version) for version in versions]
    assert artifacts[0] == half
    assert all(dict(artifact.specs) == dict(half.specs) for artifact in artifacts)
    assert {spec.dtype for spec in half.specs.values()} == {"bfloat16", "int64"}
    floats = sum(spec.size for spec in half.specs.values() if spec.dtype == "bfloat16")
    ups = [item.payload for item in grid.log if item.way == "up" and item.payload is not None]
    if codec == "full":
        assert all(len(payload) < 3 * floats + 400 for payload in ups)
    assert run.result.arrays["0.weight"].numpy().dtype == np.float32
    assert run.digest == reference


@pytest.fixture(scope="module")
def reference(half, tmp_path_factory):
    """The digest that two rounds of the bfloat16 model end in."""
    grid = FleetGrid(app=stranger([versioned_mod], torch.bfloat16), size=CLIENTS)
    return federate(tmp_path_factory.mktemp("reference") / "s", grid=grid, initial=half, rounds=2).digest


def test_a_bfloat16_run_resumes(tmp_path, half, reference):
    app = stranger([versioned_mod], torch.bfloat16)
    federate(tmp_path / "s", grid=FleetGrid(app=app, size=CLIENTS), initial=half, rounds=1).registry.close()
    run = federate(tmp_path / "s", grid=FleetGrid(app=app, size=CLIENTS), initial=half, rounds=2, resume=True)
    assert run.digest == reference
    assert isinstance(half, Artifact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrapper", "ours", "theirs"),
    [
        (DifferentialPrivacyServerSideFixedClipping, [versioned_mod], []),
        (
            DifferentialPrivacyClientSideFixedClipping,
            [versioned_mod, floats_only(fixedclipping_mod)],
            [fixedclipping_mod],
        ),
    ],
)
def test_batchnorm_learns_under_privacy_where_its_counter_ruins_it_otherwise(tmp_path, initial, wrapper, ours, theirs):
    """Flower takes the counter for a weight: it is most of the norm that is clipped."""

    def private():
        return wrapper(fedavg(CLIENTS), noise_multiplier=0.0, clipping_norm=1.0, num_sampled_clients=CLIENTS)

    grid = FleetGrid(app=stranger(ours), size=CLIENTS)
    run = federate(tmp_path / "s", grid=grid, inner=private(), rounds=10, initial=initial)
    alone = private().start(
        grid=by_partition(FleetGrid(app=stranger(theirs), size=CLIENTS)), initial_arrays=initial, num_rounds=10
    )
    assert error_rate(run.result.arrays) < 0.2 < error_rate(alone.arrays)
    assert run.result.arrays["1.num_batches_tracked"].numpy() == 30


def error_rate(arrays):
    model = net()
    model.load_state_dict(arrays.to_torch_state_dict())
    model.eval()
    wrong = total = 0
    for partition in range(CLIENTS):
        inputs, labels = data(partition)
        with torch.no_grad():
            wrong += int((model(inputs).argmax(dim=1) != labels).sum())
        total += len(labels)
    return wrong / total
