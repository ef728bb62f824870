"""Every reader of JSON that others write, a server, a client or a file that many may write to: errors of ours only."""

import contextlib
import hashlib
import json
import random
import struct

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam

from flserve_app.artifact import Artifact
from flserve_app.artifact.roles import Roles
from flserve_app.client.layout import layout_of, parse_layout
from flserve_app.client.leftover import Leftover, Pending, leftover_of, structure_of
from flserve_app.client.private import Private, read_private
from flserve_app.client.recipe import Recipe, parse_recipe
from flserve_app.client.reference import Reference, parse_reference
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.rounding import Rounding
from flserve_app.compose.client_settings import KEY, ClientSettings, read_settings
from flserve_app.compose.folder import CONFIG_FILE, HISTORY_FILE, SUMMARY_FILE
from flserve_app.compose.model import Model
from flserve_app.compose.privacy import _mod
from flserve_app.errors import FlserveError
from flserve_app.experiments.bench_startup import read_trace
from flserve_app.experiments.kept_runs import RUNS_FILE, KeptRuns
from flserve_app.experiments.submitted_app import RESULT_FILE, read_result
from flserve_app.store import Serving
from flserve_app.store.bounds import read_serving, serving_to_json
from flserve_app.store.rows import json_from_text
from flserve_app.strategy.settlements import Settlements
from flserve_app.strategy.state import restore_state, save
from flserve_app.task import TaskSpec
from tests.foreign import changed_text, fuzz, seeds

MODEL = Artifact({"w": np.arange(12, dtype="f4").reshape(3, 4), "n": np.array(3)})
LAYOUT = layout_of(MODEL, ["w"], "11" * 16)
SERVING = Serving(model_id="mlp", arguments={"hidden": 64}, inputs=({"shape": [None, 32]},), classes=("a", "b"), seed=7)
SETTINGS = ClientSettings(
    spec=TaskSpec(name="synthetic", seed=1, num_clients=3),
    model=Model(name="mlp", arguments={"hidden": 8}, seed=1),
    epochs=1,
    batch_size=8,
    lr=0.1,
    momentum=0.5,
)
HEAD = struct.Struct("<I")


def text_of(data):
    return data.decode("utf-8", "replace")


def of_text(read):
    return lambda data: read(text_of(data))


READERS = {
    "reference": (Reference(model="m", version=3, digest="a" * 64, private="k").to_json(), of_text(parse_reference)),
    "recipe": (
        Recipe(
            model_id="mlp", arguments={"hidden": 8}, seed=1, input_shape=(4,), input_dtype="float32", classes=3
        ).to_json(),
        of_text(parse_recipe),
    ),
    "rounding": (
        Rounding(kind="grid", dither=4, roles=Roles((("*a", "weight"),))).to_json(),
        of_text(Rounding.from_json),
    ),
    "feedback": (Feedback().to_json(), of_text(Feedback.from_json)),
    "layout": (LAYOUT.to_json(), of_text(parse_layout)),
    "settings": (SETTINGS.to_json(), lambda data: read_settings({KEY: text_of(data)})),
    "privacy": (
        json.dumps({"kind": "local", "clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 0.1}),
        of_text(_mod),
    ),
    "serving": (json.dumps(serving_to_json(SERVING)), lambda data: read_serving(json_from_text(text_of(data)))),
    "roles": (json.dumps([["*a", "weight"], ["b", "private"]]), lambda data: Roles.from_pairs(parsed(data))),
}


def parsed(data):
    """What JSON there is, as whoever calls such a reader has it."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


@pytest.mark.parametrize("name", READERS)
@fuzz
@seeds
def test_json_of_others(name, seed):
    good, read = READERS[name]
    read(good.encode())
    with contextlib.suppress(FlserveError):
        read(changed_text(json.loads(good), random.Random(seed)))


def sealed(head: bytes, body: bytes) -> bytes:
    return hashlib.sha256(head).digest() + HEAD.pack(len(head)) + head + body


@fuzz
@seeds
def test_heads_of_private_tensors(seed):
    data = b"".join(Private(layout=LAYOUT, values=Artifact({"w": MODEL["w"]})).to_bytes())
    assert read_private(data)[1] is not None
    size = HEAD.unpack_from(data, 32)[0]
    head, body = json.loads(data[36 : 36 + size]), data[36 + size :]
    with contextlib.suppress(FlserveError):
        read_private(sealed(changed_text(head, random.Random(seed)), body))


@fuzz
@seeds
def test_heads_of_leftovers(seed):
    left = Leftover(residual=MODEL, pending=(Pending(update="a" * 64, carried=MODEL, rest=None),))
    data = b"".join(left.to_bytes(structure_of(MODEL)))
    assert leftover_of(data, MODEL).residual == MODEL
    size = HEAD.unpack_from(data, 32)[0]
    head, body = json.loads(data[36 : 36 + size]), data[36 + size :]
    leftover_of(sealed(changed_text(head, random.Random(seed)), body), MODEL)


@fuzz
@seeds
def test_states_of_strategies(seed):
    strategy = FedAdam()
    strategy.current_arrays = {"w": np.zeros(3, "f4")}
    strategy.m_t = strategy.v_t = {"w": np.ones(3, "f4")}
    kind, data = save(strategy)
    restore_state(FedAdam(), (kind, data), "v1")
    size = HEAD.unpack_from(data)[0]
    head = changed_text(json.loads(data[4 : 4 + size]), random.Random(seed))
    with contextlib.suppress(FlserveError):
        restore_state(FedAdam(), (kind, HEAD.pack(len(head)) + head + data[4 + size :]), "v1")


@fuzz
@seeds
def test_what_is_settled(seed):
    told = changed_text({"a": ["a" * 64], "b": []}, random.Random(seed))
    with contextlib.suppress(FlserveError):
        Settlements(active=True).recall(("settled", struct.pack("<Q", 0) + told), "v1")


@fuzz
@seeds
def test_runs_of_a_bench(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("runs")
    run = {"key": "a", "accuracy": [0.5], "payload": [1], "message": [2], "seed": 1}
    (folder / RUNS_FILE).write_bytes(changed_text(run, random.Random(seed)) + b"\n")
    with contextlib.suppress(FlserveError):
        KeptRuns(folder)


@fuzz
@seeds
def test_what_a_run_left(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("run")
    stream = random.Random(seed)
    for name in (CONFIG_FILE, SUMMARY_FILE):
        (folder / name).write_bytes(b"")
    lines = [changed_text({"round": number, "seconds": 0.5}, stream) for number in range(2)]
    (folder / HISTORY_FILE).write_bytes(b"\n".join(lines))
    (folder / RESULT_FILE).write_bytes(lines[0])
    for read in (read_trace, read_result):
        with contextlib.suppress(FlserveError):
            read(folder)
