import json
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.client import Recipe, building, versioned_mod
from flserve_app.client.layout import layout_of
from flserve_app.client.policy import SitePolicy, site_policy
from flserve_app.client.private import Private, layout_bytes
from flserve_app.client.wire import Delivery, payload_array, put_delivery, take_answer
from flserve_app.codec import encode
from flserve_app.errors import ConfigError
from tests.client.contexts import context

MODEL = Artifact({"w": np.arange(1000, dtype=np.float32)})
RECIPE = Recipe(model_id="m", arguments={}, seed=1, input_shape=(2,), input_dtype="float32", classes=2)


@pytest.mark.parametrize(
    ("text", "expected"), [(7, 7), ("7", 7), ("7 B", 7), ("2GiB", 2 << 30), ("2 MB", 2 * 10**6), ("1kB", 1000)]
)
def test_sizes_are_numbers_or_have_a_unit(text, expected):
    assert site_policy({"max-model-bytes": text}, {}).max_model_bytes == expected
    assert site_policy({}, {"FLSERVE_MAX_MODEL_BYTES": str(text)}).max_model_bytes == expected


def test_the_nodes_configuration_counts_before_the_environment():
    environ = {"FLSERVE_MAX_EPOCHS": "5", "FLSERVE_BUILD_RECIPES": "false", "FLSERVE_DATA_FOLDERS": "/a:~/b"}
    policy = site_policy({"max-epochs": 7, "partition-id": 1}, environ)
    assert (policy.max_epochs, policy.build_recipes, policy.data_folders) == (7, False, (Path("/a"), Path("~/b")))
    assert site_policy({}, {}) == SitePolicy()
    assert site_policy({"data-folders": ""}, environ).data_folders == ()


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"max-model-bytes": value}, "node-config max-model-bytes is")
        for value in (0, -1, 1.5, True, "", "many", "1 XB", "-3", "1e9", None, 1 << 61, "9" * 19, "\u0661")
    ]
    + [({"max-epochs": value}, "node-config max-epochs is") for value in (0, -1, 2.0, True, "x", "1 B", "", "\u00b3")]
    + [({"build-recipes": value}, "node-config build-recipes is") for value in ("no", 1.0, "", 2, None)]
    + [({"data-folders": value}, "node-config data-folders is") for value in ("here", 3, "/a:b", "..", "/a\0", True)]
    + [({"max_model_bytes": 1}, "expected 'max-model-bytes'"), ({"Build-Recipes": False}, "expected 'build-recipes'")],
)
def test_a_value_that_is_not_as_stated_is_an_error_that_names_the_key(config, named):
    with pytest.raises(ConfigError, match=named) as caught:
        site_policy(config, {})
    assert str(caught.value).isprintable()


def test_a_bound_in_the_environment_that_nobody_knows_is_an_error():
    with pytest.raises(ConfigError, match="FLSERVE_MAX_MODEL_BYTE: unknown bound; known: "):
        site_policy({}, {"FLSERVE_MAX_MODEL_BYTE": "1"})


@pytest.mark.parametrize("key", ["max-model-byte", "max-modelbytes", "max_epoch", "Max-Client", "max-rounds-bytes"])
def test_a_key_that_is_nearly_a_bound_is_an_error(key):
    with pytest.raises(ConfigError, match=f"node-config {key}: unknown key, expected 'max-"):
        site_policy({key: 1}, {})


@pytest.mark.parametrize(
    "key", ["folders", "recipes", "max-steps", "max-length", "max-batches", "max-tokens", "max-depth", "data-folder"]
)
def test_an_apps_own_keys_are_its_own(key):
    assert site_policy({key: "data/train"}, {}) == SitePolicy()


def test_folders_are_meant_with_all_below_and_links_followed(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    policy = site_policy({"data-folders": str(tmp_path / "data")}, {})
    assert policy.allows(tmp_path / "data")
    assert policy.allows(tmp_path / "data" / "a")
    for outside in ("secret", "data/link", "data/../secret", "data2", "."):
        assert not policy.allows(tmp_path / outside)
    assert not SitePolicy().allows(Path("/"))
    assert not policy.allows(Path("a\0b"))


def echo(message, _):
    arrays = message.content.array_records.get("arrays", ArrayRecord())
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"a": 1})}), reply_to=message)


def forbidden(message, _):
    raise AssertionError("the handler was called")


def asked(handler=echo, mod=versioned_mod, config=None, **fields):
    content = RecordDict()
    put_delivery(content, Delivery(**{"action": "deliver", "model": "m", "target": MODEL.digest, **fields}))
    message = Message(content, dst_node_id=1, message_type="train")
    return take_answer(mod(message, context(**{"partition-id": 1, **(config or {})}), handler).content)


def full(artifact=MODEL):
    return (payload_array(encode(artifact, None, "full")),)


def refused(why, **fields):
    said = asked(forbidden, **fields)
    assert said.status == "nack"
    assert why in said.reason
    assert said.held == ()


def test_a_model_over_the_bound_is_refused_before_it_is_decoded():
    assert asked(config={"max-model-bytes": MODEL.nbytes}, payloads=full()).status == "ok"
    refused("payload declares 4000 bytes, at most 3999", config={"max-model-bytes": MODEL.nbytes - 1}, payloads=full())


def test_private_tensors_count_with_the_model():
    whole = Artifact({**MODEL, "head": np.zeros(100, np.float32)})
    layout = layout_of(whole, ["head"], "11" * 16)
    start = payload_array(b"".join(Private(layout=layout, values=layout.parted(whole)[1]).to_bytes()))
    delivery = {"payloads": full(), "private": layout.key, "start": start}
    assert asked(config={"max-model-bytes": whole.nbytes}, **delivery).status == "ok"
    refused("the model has 4400 bytes, max-model-bytes is 4399", config={"max-model-bytes": 4399}, **delivery)
    refused("the private tensors have 400 bytes", config={"max-model-bytes": 399}, **delivery)


def test_what_was_kept_before_the_bound_was_set_is_refused_too(tmp_path):
    cache = {"cache-dir": str(tmp_path)}
    assert asked(config=cache, payloads=full()).status == "ok"
    assert asked(config=cache).status == "ok"
    said = asked(forbidden, config={**cache, "max-model-bytes": 3999})
    assert (said.status, said.reason) == ("nack", "the model has 4000 bytes, max-model-bytes is 3999")


def test_bytes_of_a_round_are_those_in_and_those_out():
    size = len(full()[0].data)
    refused("bytes a round, max-round-bytes is", config={"max-round-bytes": size}, payloads=full())
    said = asked(config={"max-round-bytes": 2 * size - 1}, payloads=full(), uplink="full")
    assert (said.status, said.payload) == ("nack", None)
    assert "bytes a round" in said.reason
    assert asked(config={"max-round-bytes": 3 * size}, payloads=full(), uplink="full").status == "ok"


def plain(config, handler=echo, values=MODEL["w"], **records):
    content = RecordDict({"arrays": ArrayRecord({"w": Array(values)}), **records})
    message = Message(content, dst_node_id=1, message_type="train")
    return versioned_mod(message, context(**{"partition-id": 1, **config}), handler)


def test_messages_without_a_delivery_are_held_to_the_bounds_as_well():
    """A server that leaves the protocol out does not pass them, and an app's reply does not."""
    assert not plain({}).has_error()
    reply = plain({"max-round-bytes": 4000}, forbidden)
    assert "max-round-bytes is 4000" in reply.error.reason
    assert "max-round-bytes is 5000" in plain({"max-round-bytes": 5000}).error.reason
    assert plain({"max-round-bytes": 9000}, text=ConfigRecord({"a": "x" * 9000})).has_error()
    large = np.zeros(5 << 20, np.float32)
    assert "max-model-bytes is 4000" in plain({"max-model-bytes": 4000}, forbidden, large).error.reason


@pytest.mark.parametrize("config", [{"max-model-bytes": "lots"}, {"build-recipes": "perhaps"}, {"max_epochs": 3}])
def test_a_policy_that_cannot_be_read_refuses_all_work(config, caplog):
    for fields in ({"payloads": full()}, {"action": "hello"}):
        refused("the site policy cannot be read: node-config", config=config, **fields)
    reply = plain(config, forbidden)
    assert reply.error.reason.startswith("the site policy cannot be read: node-config")
    assert "nothing is done" in caplog.text


def test_recipes_are_built_only_where_the_owner_lets_them():
    mod = building(lambda recipe: MODEL)
    recipe = {"mod": mod, "recipe": RECIPE.to_json()}
    assert asked(**recipe).status == "ok"
    refused("builds no models from recipes, by its policy", config={"build-recipes": False}, **recipe)
    takes = [asked(mod=mod, action="hello", config={"build-recipes": on}).capabilities for on in (True, False)]
    assert ["recipe" in each for each in takes] == [True, False]


class Counting:
    """A builder that says how large a model is."""

    def __init__(self, nbytes, error=None):
        self.size, self.error = nbytes, error

    def nbytes(self, recipe):
        return self.size

    def __call__(self, recipe):
        if self.error is not None:
            raise self.error
        return MODEL


def test_a_recipe_is_counted_before_it_is_built():
    recipe = {"recipe": RECIPE.to_json(), "config": {"max-made-bytes": 5000}}
    assert asked(mod=building(Counting(4000)), **recipe).status == "ok"
    builder = building(Counting(5001, AssertionError("built")))
    refused("a model of 5001 bytes, at most 5000 are built here", mod=builder, **recipe)
    small = {"recipe": RECIPE.to_json(), "config": {"max-made-bytes": 3999}}
    refused("a model of 4000 bytes", mod=building(lambda recipe: MODEL), **small)


class NoText(RuntimeError):
    def __str__(self):
        raise RuntimeError("no text")


class Rude(BaseException):
    def __str__(self):
        raise SystemExit


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        GeneratorExit(),
        Rude(),
        NoText(),
        ExceptionGroup("\x1b[2Jgroup", [ValueError("a")]),
        BaseExceptionGroup("group", [SystemExit()]),
        ValueError("x" * 1_000_000),
        MemoryError(),
        RuntimeError("can't allocate"),
        KeyError("width"),
        RecursionError("deep"),
        OverflowError(),
        OSError(),
    ],
)
def test_whatever_a_builder_raises_is_a_refusal_and_the_model_can_be_sent(error):
    for builder in (Counting(1, error), lambda recipe: Counting(1, error)(recipe)):
        refused("recipe: m cannot be built here", mod=building(builder), recipe=RECIPE.to_json())
        layout = layout_of(MODEL, ["w"], "11" * 16)
        begun = {"private": layout.key, "start": payload_array(b"".join(layout_bytes(layout)))}
        refused("recipe: m cannot be built here", mod=building(builder), recipe=RECIPE.to_json(), **begun)


def test_a_builder_can_be_interrupted():
    with pytest.raises(KeyboardInterrupt):
        asked(mod=building(Counting(1, KeyboardInterrupt())), recipe=RECIPE.to_json())


@pytest.mark.parametrize("made", [None, {}, b"x", Artifact, np.zeros(3), memoryview(b"x")])
def test_what_a_builder_returns_is_an_artifact_or_a_refusal(made):
    refused("recipe: m is built as a ", mod=building(lambda recipe: made), recipe=RECIPE.to_json())


def test_memory_that_ends_is_a_refusal(monkeypatch):
    def ends(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("flserve_app.client.target.decode", ends)
        refused("there is not enough memory for it", payloads=full())
    monkeypatch.setattr("flserve_app.client.fetch.encode", ends)
    assert asked(payloads=full()).reason == "there is not enough memory for it"


@pytest.mark.parametrize("text", ["[" * 4000, json.dumps({"model_id": "m"}), "{" * 100, "nul", '"' * 9])
def test_a_recipe_that_is_none_is_a_refusal(text):
    refused("recipe", mod=building(lambda recipe: MODEL), recipe=text)


def test_what_memory_allows_bounds_what_is_made(monkeypatch):
    monkeypatch.setattr("flserve_app.client.policy.memory_bytes", lambda: 4 << 30)
    assert SitePolicy().made_bytes == 1 << 30
    assert SitePolicy(max_model_bytes=1000).made_bytes == 1000
    assert SitePolicy(max_made_bytes=2 << 30).made_bytes == 2 << 30
