"""First contact by recipe: what it saves, and what becomes of clients that build otherwise or not at all."""

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

from flserve_app import client_app
from flserve_app.artifact import Artifact
from flserve_app.client import Recipe, building, versioned_mod
from flserve_app.client.recipe import CountingBuilder
from flserve_app.client.wire import Delivery, put_delivery, take_answer
from flserve_app.compose.apps import train
from flserve_app.compose.recipes import build
from flserve_app.errors import TaskError
from flserve_app.registry import Registry
from flserve_app.task.models import build_model, initial_artifact
from tests.client.contexts import context
from tests.compose.jobs import run
from tests.fleet import FleetGrid

LARGER = "model.arguments.hidden=512"


def recipe(model_id="mlp", arguments=None, input_shape=(4,), input_dtype="float32", classes=3, seed=1):
    return Recipe(
        model_id=model_id,
        arguments={} if arguments is None else arguments,
        seed=seed,
        input_shape=input_shape,
        input_dtype=input_dtype,
        classes=classes,
    )


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "arguments"),
    [
        ("mlp", (2, 4), "float32", {"hidden": 5}),
        ("cnn", (1, 8, 8), "float32", {"width": 2, "norm": True}),
        ("resnet", (3, 8, 8), "float32", {"width": 4}),
        ("chartransformer", (6,), "int64", {"width": 8, "heads": 2, "layers": 1}),
    ],
)
def test_what_a_recipe_stands_for_is_what_the_server_publishes(name, shape, dtype, arguments):
    model = build_model(name, input_shape=shape, classes=4, seed=9, input_dtype=dtype, **arguments)
    built = build(recipe(name, arguments, shape, dtype, classes=4, seed=9))
    assert built.digest == initial_artifact(model).digest
    assert built.digest != build(recipe(name, arguments, shape, dtype, classes=4, seed=8)).digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_id": "my-model"}, "unknown model 'my-model'"),
        ({"arguments": {"seed": 3}}, "has no argument 'seed'"),
        ({"arguments": {"name": 3}}, "has no argument 'name'"),
        ({"arguments": {"hidden": True}}, "hidden must be an integer"),
        ({"arguments": {"hidden": (1 << 31) - 1}, "input_shape": (1 << 20,)}, "parameters, at most"),
        ({"model_id": "resnet", "arguments": {"blocks": 1 << 30}, "input_shape": (3, 8, 8)}, "blocks must be at most"),
        ({"classes": 0}, "cannot take inputs"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(fields, message):
    with pytest.raises(TaskError, match=message):
        build(recipe(**fields))


def test_first_contact_costs_no_download(tmp_path):
    rows, plain = [], []
    summary = run(tmp_path / "a", LARGER, observer=rows.append)
    run(tmp_path / "b", LARGER, "codec=full", observer=plain.append)
    assert rows[1].plans == {"recipe": 3}
    assert 0 < rows[1].bytes_down < 3 * 250 < plain[1].bytes_down / 20
    assert [row.digest for row in rows] == [row.digest for row in plain]
    assert summary["failures"] == 0
    with Registry.open(tmp_path / "a" / "store") as registry:
        assert [version.serving.seed for version in registry.versions(summary["model_name"])] == [42, None, None]


def test_whoever_builds_otherwise_is_sent_the_model_in_the_same_round(tmp_path, caplog):
    def other(recipe):
        made = build(recipe)
        return Artifact({name: np.nextafter(values, np.float32(9)) for name, values in made.items()})

    app = ClientApp(mods=[building(other)])
    app.train()(train)
    grid = FleetGrid(app=lambda number: app if number == 1 else client_app.app, size=3)
    rows, undisturbed = [], []
    run(tmp_path / "a", LARGER, grid=grid, observer=rows.append)
    run(tmp_path / "b", LARGER, observer=undisturbed.append)
    assert rows[1].plans == {"recipe": 3, "resend": 1}
    assert rows[2].plans == {"delta": 3}
    assert [row.digest for row in rows] == [row.digest for row in undisturbed]
    assert caplog.text.count("partition-1 is served again in full: payload leads to") == 1


@pytest.mark.slow
def test_an_app_with_the_mod_alone_says_that_it_cannot_build(tmp_path):
    app = ClientApp(mods=[versioned_mod])
    app.train()(train)
    rows = []
    run(tmp_path / "a", LARGER, grid=FleetGrid(app=app, size=3), observer=rows.append)
    assert rows[1].plans == {"full": 3}
    assert sum(row.failures for row in rows) == 0


@pytest.mark.slow
def test_whoever_comes_late_builds_the_first_version_and_gets_what_came_after(tmp_path):
    rows, plain = [], []
    options = (LARGER, "strategy.clients_per_round=1", "seed=1")
    run(tmp_path / "a", *options, clients=4, rounds=6, observer=rows.append)
    run(tmp_path / "b", *options, "codec=full", clients=4, rounds=6, observer=plain.append)
    late = [row for row in rows[2:] if row.plans == {"recipe": 1}]
    assert len(late) >= 2
    assert all(0 < row.bytes_down < plain[1].bytes_down for row in late)
    assert sum(row.failures + row.plans.get("resend", 0) for row in rows) == 0
    assert [row.digest for row in rows] == [row.digest for row in plain]


def test_a_model_is_counted_without_being_built():
    for name, shape, dtype, arguments in (
        ("mlp", (8,), "float32", {"hidden": 5}),
        ("cnn", (1, 8, 8), "float32", {"norm": True}),
        ("resnet", (1, 8, 8), "float32", {"blocks": 2}),
        ("chartransformer", (8,), "int64", {}),
    ):
        asked = recipe(name, arguments, shape, dtype)
        assert build.nbytes(asked) == build(asked).nbytes
    assert isinstance(build, CountingBuilder)


BOMBS = [
    ("chartransformer", (32,), "int64", {"width": 512, "heads": 1, "layers": 256}),
    ("chartransformer", (1 << 30,), "int64", {"width": 64, "heads": 1, "layers": 1}),
    ("mlp", ((1 << 31) - 1, (1 << 31) - 1), "float32", {"hidden": (1 << 31) - 1}),
    ("mlp", (1 << 30,), "float32", {"hidden": 1}),
    ("cnn", (1, 4096, 4096), "float32", {"width": 64}),
    ("resnet", (3, 64, 64), "float32", {"width": 4096, "blocks": 64}),
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[0])
def test_a_recipe_of_a_few_bytes_that_stands_for_gigabytes_is_a_nack(bomb, monkeypatch):
    monkeypatch.setattr("flserve_app.client.policy.memory_bytes", lambda: 4 << 30)
    monkeypatch.setattr("flserve_app.compose.recipes.build_model", lambda *_, **__: pytest.fail("it was built"))
    name, shape, dtype, arguments = bomb
    asked = recipe(name, arguments, shape, dtype).to_json()
    content = RecordDict()
    put_delivery(content, Delivery(action="deliver", model="m", target="ab" * 32, recipe=asked))
    message = Message(content, dst_node_id=1, message_type="train")
    said = take_answer(building(build)(message, context(**{"partition-id": 1}), lambda m, c: m).content)
    assert said.status == "nack"
    assert said.reason.startswith("recipe: ")
