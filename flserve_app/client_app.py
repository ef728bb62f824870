"""The ClientApp of `flwr run`: binds `TaskClient` to Flower's messages.

`query.predict` asks the client for outputs of the version it holds: the message's ArrayRecord `inputs` has one
array (n, ...), the reply's `outputs` one array (n, classes).
"""

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flserve_app.compose.client import TaskClient
from flserve_app.errors import DeliveryError

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Fetch the delivered version, train on it, send the update."""
    return TaskClient(context).handle_train(message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Fetch the delivered version and evaluate it on the client's examples."""
    return TaskClient(context).handle_evaluate(message)


@app.query("predict")
def predict(message: Message, context: Context) -> Message:
    """Predict with the held version, on this device."""
    inputs = message.content.array_records.get("inputs", ArrayRecord())
    if len(inputs) != 1:
        raise DeliveryError(f"query.predict needs one array of inputs, found {len(inputs)}")
    config = message.content.config_records.get("config", {})
    outputs = TaskClient(context).with_settings(config).predict(next(iter(inputs.values())).numpy())
    return Message(RecordDict({"outputs": ArrayRecord({"outputs": Array(outputs)})}), reply_to=message)
