import numpy as np

from flserve_app.client.records import to_record
from flserve_app.compose.client import TaskClient
from flserve_app.compose.client_settings import KEY, ClientSettings
from flserve_app.compose.parts import CentralEvaluation, model_of, task_spec
from flserve_app.compose.stores import serving_of
from flserve_app.config import load
from tests.client.contexts import context

APP = load(["task=chars", "model=chartransformer", "task.dim=8", "model.arguments.width=8", "seed=2"]).app
SPEC, MODEL = task_spec(APP, 400), model_of(APP)
CONFIG = {
    KEY: ClientSettings(spec=SPEC, model=MODEL, epochs=1, batch_size=32, lr=0.1, momentum=0.0).to_json(),
    "server-round": 1,
}


def test_a_client_trains_evaluates_and_predicts_on_tokens():
    arrays = [array.numpy() for array in to_record(CentralEvaluation(MODEL, SPEC).initial).values()]
    client = TaskClient(context(**{"partition-id": 3}))
    trained, examples, _ = client.fit(arrays, CONFIG)
    assert examples > 0
    before, after = (client.evaluate(values, CONFIG)[0] for values in (arrays, trained))
    assert after < before
    logits = client.infer(trained, np.zeros((2, 8), np.int64))
    assert logits.shape == (2, 64)
    assert np.array_equal(client.infer(trained, np.zeros((2, 8), np.float32)), logits)


def test_a_version_says_that_it_takes_tokens():
    serving = serving_of(MODEL, SPEC)
    assert serving.inputs[0]["dtype"] == "int64"
    assert list(serving.classes[:3]) == ["\n", " ", "!"]
    assert "text_sha256" in serving.preprocessing
