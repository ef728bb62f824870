import json

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from flserve_app import client_app
from flserve_app.client.records import to_record
from flserve_app.compose.client import TaskClient
from flserve_app.compose.client_settings import KEY, ClientSettings, read_settings
from flserve_app.compose.model import Model
from flserve_app.compose.parts import CentralEvaluation
from flserve_app.errors import ConfigError, DeliveryError, FlserveError, NotFound, TaskError
from flserve_app.registry import Registry
from flserve_app.task import TaskSpec
from tests.client.contexts import context
from tests.compose.jobs import run
from tests.fleet import FleetGrid, set_identity

SETTINGS = ClientSettings(
    spec=TaskSpec(name="synthetic", seed=3, num_clients=2, n=20, dim=4, classes=3),
    model=Model(name="mlp", arguments={"hidden": 4}, seed=3),
    epochs=2,
    batch_size=8,
    lr=0.1,
    momentum=0.5,
)
CONFIG = {KEY: SETTINGS.to_json(), "server-round": 1}


def test_settings_come_back_from_their_json():
    assert read_settings(CONFIG) == SETTINGS


@pytest.mark.parametrize("value", [None, 3, b"{}"])
def test_another_servers_message_is_told_apart(value):
    with pytest.raises(ConfigError, match="the server sent no 'flserve-job'"):
        read_settings({KEY: value} if value is not None else {})


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("task"),
        lambda plain: plain.update(train=[1, 2]),
        lambda plain: plain.update(train=[float("inf"), 1, 1, 1]),
        lambda plain: plain.update(task=[]),
        lambda plain: plain["task"].update(extra=1),
        lambda plain: plain.update(model="mlp"),
        lambda plain: plain["task"].update(n=10**12),
    ],
)
def test_malformed_settings_are_refused(change):
    plain = json.loads(SETTINGS.to_json())
    change(plain)
    with pytest.raises(FlserveError, match=r"malformed|n "):
        read_settings({KEY: json.dumps(plain)})


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "3", "null"])
def test_what_is_no_settings_is_refused(text):
    with pytest.raises(ConfigError, match="the server's 'flserve-job' is malformed"):
        read_settings({KEY: text})


@pytest.fixture(scope="module")
def arrays():
    record = to_record(CentralEvaluation(SETTINGS.model, SETTINGS.spec).initial)
    return [array.numpy() for array in record.values()]


def test_training_is_a_function_of_arrays_data_round_and_partition(arrays):
    def fit(partition, **config):
        return TaskClient(context(**{"partition-id": partition})).fit(arrays, {**CONFIG, **config})

    (one, examples, metrics), again = fit(0), fit(0)
    assert examples == 20
    assert metrics["train_loss"] > 0
    assert all(np.array_equal(a, b) for a, b in zip(one, again[0], strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(one, arrays, strict=True))
    for other in (fit(1), fit(0, **{"server-round": 2})):
        assert any(not np.array_equal(a, b) for a, b in zip(one, other[0], strict=True))


def test_clients_compute_on_one_thread():
    torch.set_num_threads(2)
    TaskClient(context(**{"partition-id": 0}))
    assert torch.get_num_threads() == 1


def test_evaluation_gives_loss_and_accuracy(arrays):
    loss, examples, metrics = TaskClient(context(**{"partition-id": 1})).evaluate(arrays, CONFIG)
    assert loss > 0
    assert examples == 20
    assert 0 <= metrics["accuracy"] <= 1


def test_a_node_needs_a_partition(arrays):
    with pytest.raises(ConfigError, match="the node has no partition-id"):
        TaskClient(context()).fit(arrays, CONFIG)


def test_a_partition_that_the_task_does_not_have_is_refused(arrays):
    with pytest.raises(TaskError, match="partition 5 does not exist: the task has 2"):
        TaskClient(context(**{"partition-id": 5})).fit(arrays, CONFIG)


def test_arrays_of_another_model_are_refused(arrays):
    client = TaskClient(context(**{"partition-id": 0}))
    with pytest.raises(ConfigError, match="the server sent 3 arrays, the model has 4"):
        client.fit(arrays[:3], CONFIG)
    with pytest.raises(TaskError, match="the artifact has float64"):
        client.fit([array.astype(np.float64) for array in arrays], CONFIG)


def test_inference_needs_to_know_the_model(arrays):
    client = TaskClient(context(**{"partition-id": 0}))
    with pytest.raises(ConfigError, match="call `with_settings` first"):
        client.infer(arrays, np.zeros((1, 4)))
    assert client.with_settings(CONFIG).infer(arrays, np.zeros((2, 4))).shape == (2, 3)


def query(grid, number, inputs, config):
    records = {"inputs": ArrayRecord({f"x{at}": Array(value) for at, value in enumerate(inputs)})} if inputs else {}
    content = RecordDict({**records, "config": ConfigRecord(config)})
    message = Message(content, dst_node_id=grid.node_id(number), message_type="query.predict")
    (reply,) = grid.send_and_receive([message])
    return reply


def test_a_query_predicts_with_the_version_the_client_holds(tmp_path):
    grid = FleetGrid(app=client_app.app, size=3)
    summary = run(tmp_path / "run", "strategy.clients_per_evaluation=3", grid=grid, rounds=2)
    with Registry.open(tmp_path / "run" / "store") as registry:
        final = registry.load(summary["final_digest"])
    spec = TaskSpec(name="synthetic", seed=42, num_clients=3, n=20, dim=4, classes=3)
    job = ClientSettings(
        spec=spec,
        model=Model(name="mlp", arguments={"hidden": 4}, seed=42),
        epochs=1,
        batch_size=8,
        lr=0.1,
        momentum=0.0,
    )
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    reply = query(grid, 1, [inputs], {KEY: job.to_json()})
    outputs = reply.content["outputs"]["outputs"].numpy()
    client = TaskClient(context(**{"partition-id": 1})).with_settings({KEY: job.to_json()})
    assert np.array_equal(outputs, client.infer([array.numpy() for array in to_record(final).values()], inputs))
    assert outputs.shape == (5, 3)


def test_a_query_that_cannot_be_answered_is_an_error_reply():
    grid = FleetGrid(app=client_app.app, size=1)
    none = query(grid, 0, [], {KEY: SETTINGS.to_json()})
    assert "query.predict needs one array of inputs, found 0" in none.error.reason
    empty = query(grid, 0, [np.zeros((1, 4))], {KEY: SETTINGS.to_json()})
    assert "partition-0 holds no version yet" in empty.error.reason
    assert DeliveryError.__name__ in none.error.reason
    assert NotFound.__name__ in empty.error.reason


def test_the_client_app_is_what_flower_loads():
    from flwr.clientapp import ClientApp

    set_identity()
    assert isinstance(client_app.app, ClientApp)
