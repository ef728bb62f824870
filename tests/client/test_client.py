import re

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

from flserve_app.artifact import Artifact
from flserve_app.client import VersionedClient, offline_context, versioned_mod
from flserve_app.client.layout import layout_of
from flserve_app.client.private import Private
from flserve_app.client.records import to_artifact, to_record
from flserve_app.client.wire import Delivery, payload_array, put_delivery, take_answer
from flserve_app.codec import decode, encode
from flserve_app.errors import DeliveryError, NotFound
from tests.client.contexts import context
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

MODEL = Artifact(
    {"w": np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32), "b": np.array([10.0, 20.0], dtype=np.float32)}
)


class Linear(VersionedClient):
    """Adds 1 to all weights; predicts `inputs @ w + b`."""

    def __init__(self, context):
        super().__init__(context)
        self.configs = []

    def fit(self, parameters, config):
        self.configs.append(config)
        return [value + np.float32(1) for value in parameters], 7, {"loss": 0.5, "note": "text", "fast": True}

    def evaluate(self, parameters, config):
        self.configs.append(config)
        return float(parameters[0].sum()), 3, {"accuracy": 0.25}

    def infer(self, parameters, inputs):
        weight, bias = parameters
        return inputs @ weight + bias


def message(kind="train", payload=True, **records):
    content = RecordDict(records)
    carried = (payload_array(encode(MODEL)),) if payload else ()
    put_delivery(content, Delivery(action="deliver", model="m", version=4, target=MODEL.digest, payloads=carried))
    return Message(content, dst_node_id=1, message_type=kind)


@pytest.fixture
def where():
    return context(**{"partition-id": 2})


def test_it_is_a_numpy_client(where):
    client = Linear(where)
    assert isinstance(client, NumPyClient)
    assert client.identity == "partition-2"


def test_training_gets_the_version_and_sends_the_update(where):
    client = Linear(where)
    config = ConfigRecord({"lr": 0.1, "layers": [1, 2]})
    reply = client.handle_train(message(config=config))
    assert client.configs == [{"lr": 0.1}]
    answer = take_answer(reply.content)
    trained = decode(answer.payload.data, MODEL)
    assert list(trained) == ["w", "b"]
    assert np.array_equal(trained["w"], MODEL["w"] + 1)
    assert dict(reply.content["metrics"]) == {"num-examples": 7, "loss": 0.5, "fast": 1.0}


def test_evaluation_measures_the_version(where):
    reply = Linear(where).handle_evaluate(message("evaluate"))
    assert dict(reply.content["metrics"]) == {"num-examples": 3, "loss": 10.0, "accuracy": 0.25}
    assert take_answer(reply.content).payload is None


def test_the_held_version_predicts_without_a_server(where):
    Linear(where).handle_evaluate(message("evaluate"))
    later = Linear(context(state=where.state, **{"partition-id": 2}))
    assert (later.held().model, later.held().version) == ("m", 4)
    assert later.held("m") == later.held()
    outputs = later.predict(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32))
    assert np.array_equal(outputs, [[11.0, 22.0], [13.0, 24.0]])
    assert np.array_equal(later.predict(np.zeros((0, 2), dtype=np.float32), "m"), np.zeros((0, 2)))


def test_private_tensors_are_put_back_for_a_prediction(tmp_path):
    layout = layout_of(MODEL, {"b"}, "0123456789abcdef" * 2)
    shared, values = layout.parted(MODEL)
    start = payload_array(b"".join(Private(layout=layout, values=values).to_bytes()))
    delivery = Delivery(
        action="deliver",
        model="m",
        target=shared.digest,
        payloads=(payload_array(encode(shared)),),
        private=layout.key,
        start=start,
    )
    content = RecordDict({"config": ConfigRecord()})
    put_delivery(content, delivery)
    where = context(**{"partition-id": 2, "cache-dir": str(tmp_path)})
    reply = Linear(where).handle_train(Message(content, dst_node_id=1, message_type="train"))
    answer = take_answer(reply.content)
    assert list(decode(answer.payload.data, shared)) == ["w"]
    assert answer.private == layout.key
    later = Linear(context(run_id=6, **{"partition-id": 2, "cache-dir": str(tmp_path)}))
    assert np.array_equal(later.predict(np.zeros((1, 2), np.float32)), [[11.0, 21.0]])
    (kept,) = tmp_path.rglob("*.private")
    kept.unlink()
    with pytest.raises(NotFound, match="partition-2 lost its private tensors of m"):
        later.predict(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("named", [{"partition-id": 2}, {}])
def test_a_client_is_made_without_a_context_of_flowers(tmp_path, monkeypatch, named):
    Linear(context(**{"cache-dir": str(tmp_path / "cache")}, **named)).handle_train(message())
    partition = {key.replace("-", "_"): value for key, value in named.items()}
    later = Linear(offline_context(tmp_path / "cache", **partition))
    assert np.array_equal(later.predict(np.array([[1.0, 0.0]], dtype=np.float32)), [[11.0, 22.0]])
    monkeypatch.setenv("FLSERVE_CACHE_DIR", str(tmp_path / "cache"))
    assert Linear(offline_context(**partition)).held().version == 4


def test_without_a_version_there_is_no_prediction(where):
    client = Linear(where)
    with pytest.raises(NotFound, match="partition-2 holds no version yet"):
        client.predict(np.zeros((1, 2)))
    client.handle_train(message())
    with pytest.raises(NotFound, match="partition-2 holds no version of 'other'; held models: m"):
        client.predict(np.zeros((1, 2)), "other")


def test_a_damaged_version_is_not_predicted_with(where):
    client = Linear(where)
    client.handle_train(message())
    where.state["flserve.arrays"] = ArrayRecord({MODEL.digest: payload_array(b"damaged")})
    with pytest.raises(NotFound, match="partition-2 lost version 4 of m"):
        client.predict(np.zeros((1, 2)))


def test_a_fit_that_returns_too_few_arrays_says_so(where):
    class Short(Linear):
        def fit(self, parameters, config):
            return parameters[:1], 1, {}

    with pytest.raises(DeliveryError, match="fit returned 1 arrays, the model has 2"):
        Short(where).handle_train(message())


@pytest.mark.parametrize("records", [{}, {"a": to_record(MODEL), "b": to_record(MODEL)}])
def test_a_message_has_one_model(where, records):
    plain = Message(RecordDict(records), dst_node_id=1, message_type="train")
    with pytest.raises(DeliveryError, match=re.escape(f"message has {len(records)} ArrayRecords, expected 1")):
        Linear(where).handle_train(plain)


def test_a_server_without_flserve_is_served_plainly(where):
    plain = Message(RecordDict({"model": to_record(MODEL)}), dst_node_id=1, message_type="train")
    reply = Linear(where).handle_train(plain)
    assert np.array_equal(to_artifact(reply.content["model"])["b"], MODEL["b"] + 1)


def test_methods_that_carry_the_protocol_are_final():
    for name in ("predict", "handle_train", "handle_evaluate", "held"):
        assert getattr(getattr(VersionedClient, name), "__final__", False)


def test_a_client_has_to_say_how_it_infers(where):
    with pytest.raises(TypeError, match=r"abstract method '?infer"):
        VersionedClient(where)


def test_a_whole_run_with_numpy_clients(tmp_path):
    app = ClientApp()
    app.train()(lambda message, context: Linear(context).handle_train(message))
    app.evaluate()(lambda message, context: Linear(context).handle_evaluate(message))
    grid = FleetGrid(app=app, size=3)
    run = federate(tmp_path / "s", grid=grid, initial=to_record(MODEL), inner=fedavg(3, 3, 3), rounds=2)
    assert np.allclose(to_artifact(run.result.arrays)["w"], MODEL["w"] + 2, atol=1e-5)
    assert run.rows[2].plans == {"full": 3, "none": 3}, "the model is so small that naming a base costs more"
    held = Linear(grid.contexts[grid.node_id(1)])
    assert held.held("model").version == 2
    assert np.allclose(held.predict(np.zeros((1, 2), dtype=np.float32)), MODEL["b"] + 2, atol=1e-5)


def test_the_mod_beside_a_versioned_client_changes_nothing(tmp_path):
    digests = set()
    for mods in ([], [versioned_mod]):
        app = ClientApp(mods=mods)
        app.train()(lambda message, context: Linear(context).handle_train(message))
        run = federate(tmp_path / str(len(mods)), grid=FleetGrid(app=app, size=2), initial=to_record(MODEL), rounds=2)
        digests.add((run.digest, run.total("bytes_up")))
    assert len(digests) == 1
