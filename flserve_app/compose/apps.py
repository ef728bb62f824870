"""The ClientApp of flserve's own tasks.

`query.predict` asks a client for outputs of the version that was delivered to it in this run: the message's
ArrayRecord `inputs` has one array (n, ...), the reply's `outputs` one array (n, classes).
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.client import building
from flserve_app.compose.client import TaskClient
from flserve_app.compose.privacy import private_mod
from flserve_app.compose.recipes import build
from flserve_app.errors import DeliveryError


def make_client_app() -> ClientApp:
    """Return a ClientApp that binds `TaskClient` to Flower's messages.

    The mod for versions is outermost: what a mod for privacy makes of an update is what is encoded.
    """
    app = ClientApp(mods=[building(build), private_mod])
    app.train()(train)
    app.evaluate()(evaluate)
    app.query("predict")(predict)
    return app


def train(message: Message, context: Context) -> Message:
    """Fetch the delivered version, train on it, send the update."""
    return TaskClient(context).handle_train(message)


def evaluate(message: Message, context: Context) -> Message:
    """Fetch the delivered version and evaluate it on the client's examples."""
    return TaskClient(context).handle_evaluate(message)


def predict(message: Message, context: Context) -> Message:
    """Predict with the version that this run delivered, on this device.

    Raises:
        DeliveryError: If the message has no array of inputs.
        NotFound: If the client holds no version of this run.
    """
    inputs = message.content.array_records.get("inputs", ArrayRecord())
    if len(inputs) != 1:
        raise DeliveryError(f"query.predict needs one array of inputs, found {len(inputs)}")
    config = dict(message.content.config_records.get("config", {}))
    client = TaskClient(context).with_settings(config)
    outputs = client.predict(next(iter(inputs.values())).numpy(), client.delivered().model)
    return Message(RecordDict({"outputs": ArrayRecord({"outputs": Array(outputs)})}), reply_to=message)
