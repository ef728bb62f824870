"""A job comes from the server: what it may ask of a client is the node's owner's to say."""

import json
import os

import numpy as np
import pytest

from flserve_app.client.policy import SitePolicy
from flserve_app.compose.client import TaskClient
from flserve_app.compose.client_limits import check_job, is_place, place_of
from flserve_app.compose.client_settings import KEY, ClientSettings, read_settings
from flserve_app.compose.model import Model
from flserve_app.errors import ConfigError, FlserveError
from flserve_app.task import HubSource, TaskSpec
from flserve_app.task.state import to_arrays
from tests.client.contexts import context

TINY = TaskSpec(name="synthetic", num_clients=2, n=5, dim=2, classes=2)
MODEL = Model(name="mlp", arguments={"hidden": 4}, seed=1)


def settings(spec=TINY, model=MODEL, **values):
    return ClientSettings(
        **{"spec": spec, "model": model, "epochs": 1, "batch_size": 8, "lr": 0.1, "momentum": 0.0, **values}
    )


def changed(**train):
    """Return a job as a server may send it, which need not be one that `ClientSettings` would write."""
    plain = json.loads(settings().to_json())
    for at, name in enumerate(("epochs", "batch_size", "lr", "momentum", "proximal")):
        plain["train"][at] = train.pop(name, plain["train"][at])
    for part in ("task", "model"):
        plain[part].update(train.pop(part, {}))
    assert not train
    return {KEY: json.dumps(plain), "server-round": 1}


def test_an_optimizer_is_told_only_if_it_is_not_what_older_clients_use():
    told = json.loads(settings().to_json())
    assert "optimizer" not in told
    assert read_settings({KEY: json.dumps(told)}).optimizer == "sgd"
    assert read_settings({KEY: settings(optimizer="adam").to_json()}).optimizer == "adam"
    for wrong in ("lbfgs", 1, None, ["adam"]):
        with pytest.raises(ConfigError, match="optimizer"):
            read_settings({KEY: json.dumps({**told, "optimizer": wrong})})


NUMBERS = [-1, 0, 1e308, -0.5, True, "1", None, [1], {}, float("nan"), float("inf"), float("-inf"), 10**400]


@pytest.mark.parametrize("value", NUMBERS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "momentum", "proximal"])
def test_numbers_out_of_their_range_are_one_sentence(name, value):
    good = {"lr": (1e308,), "momentum": (0,), "proximal": (0, 1e308)}.get(name, ())
    if not isinstance(value, bool) and value in good:
        read_settings(changed(**{name: value}))
        return
    with pytest.raises(ConfigError, match=name) as caught:
        read_settings(changed(**{name: value}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "change",
    [{"task": {"num_clients": value}} for value in (0, -1, 1.5, True, "2", None, 1 << 21, float("nan"))]
    + [{"task": {"n": value}} for value in (0, -3, 2.0, 1 << 40, "x")]
    + [{"task": {"dim": 0}}, {"task": {"classes": 1}}, {"task": {"min_size": -1}}, {"task": {"name": ["x"]}}]
    + [{"task": {"alpha": value}} for value in (0, -1, float("nan"), float("inf"), "a", None)]
    + [{"task": {"val_fraction": value}} for value in (-0.1, 1, 2, float("nan"))]
    + [{"task": {"hub": value}} for value in ([], 3, {"dataset": 4}, {"dataset": "a/b", "side": -1}, {"x\x1b[2J": 1})]
    + [{"task": {"x\x1b[2J\n": 1}}, {"model": {"x\x1b[2J\n": 1}}, {"model": {"name": []}}, {"model": {"seed": "1"}}],
    ids=str,
)
def test_a_task_or_model_that_is_none_is_one_sentence(change):
    with pytest.raises(FlserveError) as caught:
        read_settings(changed(**change))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["[" * 60_000, '{"a":' * 9_000, "[" * 100_000, '"' + "a" * 10**6 + '"', "NaN"])
def test_nesting_and_length_without_end_are_one_sentence(text):
    with pytest.raises(ConfigError, match=r"malformed|characters") as caught:
        read_settings({KEY: text})
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("number", ["1", 1.5, True, [1]])
def test_a_round_that_is_no_number_is_one_sentence(number):
    arrays = [array.copy() for array in to_arrays(MODEL.build(TINY)).values()]
    with pytest.raises(ConfigError, match="the server sent server-round"):
        TaskClient(context(**{"partition-id": 0})).fit(arrays, {**changed(), "server-round": number})


@pytest.mark.parametrize(
    ("job", "policy", "why"),
    [
        ({"epochs": 10**9}, {}, "the job has 1000000000 epochs, this node's max-epochs is 10000"),
        ({"epochs": 3}, {"max_epochs": 2}, "the job has 3 epochs, this node's max-epochs is 2"),
        ({"spec": TaskSpec(name="synthetic", num_clients=1 << 20, n=1, dim=1)}, {}, "max-clients is 10000"),
        ({"spec": TaskSpec(name="digits", num_clients=20_000)}, {}, "max-clients is 10000"),
        ({"spec": TINY}, {"max_made_bytes": 239}, "240 bytes of synthetic data, this node's max-made-bytes is 239"),
    ],
)
def test_a_job_over_a_bound_is_refused_and_the_owner_may_raise_it(job, policy, why):
    with pytest.raises(ConfigError, match=why):
        check_job(settings(**job), SitePolicy(**policy))
    check_job(settings(**job), SitePolicy(max_epochs=10**9, max_clients=1 << 20, max_made_bytes=1 << 40))


def test_a_client_holds_its_job_to_the_nodes_configuration():
    arrays = [array.copy() for array in to_arrays(MODEL.build(TINY)).values()]
    config = {KEY: settings(epochs=3).to_json(), "server-round": 1}
    TaskClient(context(**{"partition-id": 0, "max-epochs": 3})).fit(arrays, config)
    for act in ("fit", "evaluate"):
        client = TaskClient(context(**{"partition-id": 0, "max-epochs": 2}))
        with pytest.raises(ConfigError, match="this node's max-epochs is 2"):
            getattr(client, act)(arrays, config)
    with pytest.raises(ConfigError, match="node-config max-epochs is"):
        TaskClient(context(**{"partition-id": 0, "max-epochs": "two"}))


def test_a_model_that_is_larger_than_what_was_delivered_is_not_built():
    huge = Model(name="chartransformer", arguments={"width": 512, "heads": 1, "layers": 256}, seed=1)
    spec = TaskSpec(name="chars", num_clients=2, dim=8)
    arrays = [np.zeros(4, np.float32)]
    with pytest.raises(ConfigError, match=r"the job's model has 32\d+ bytes, the version that was delivered 16"):
        TaskClient(context(**{"partition-id": 0})).fit(arrays, {KEY: settings(spec, huge).to_json()})


def hub(dataset):
    return settings(TaskSpec(name="hub", hub=HubSource(dataset=dataset)))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "private")
    return tmp_path


PLACES = ["data/photos", "private", "data/link", "data/photos/../../private", "nothing", ""]


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_is_read_only_where_the_owner_allows_it(photos, place):
    with pytest.raises(ConfigError, match="a place on this machine: its owner has to allow the folder"):
        check_job(hub(f"{photos}/{place}"), SitePolicy())
    policy = SitePolicy(data_folders=(photos / "data",))
    if place == "data/photos":
        check_job(hub(f"{photos}/{place}"), policy)
    else:
        with pytest.raises(ConfigError, match="a place on this machine"):
            check_job(hub(f"{photos}/{place}"), policy)


NAMES = """
imagefolder csv mnist . .. ~ ~root ~root/x file:///etc https://a/b a/b/c ../x a\\b s3://a/b data -a/b a/.b
"""


@pytest.mark.parametrize("name", [*NAMES.split(), "x\x00y", "a\n/b", "\x1b[2J", "a" * 5000, "a/" + "b" * 5000])
def test_a_name_that_may_stand_for_files_of_this_machine_is_a_place(monkeypatch, photos, name):
    """`imagefolder` alone would read the working directory."""
    monkeypatch.chdir(photos)
    with pytest.raises(ConfigError, match="a place on this machine") as caught:
        check_job(hub(name), SitePolicy())
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_repository_of_the_hub_is_none_unless_a_folder_has_its_name(monkeypatch, photos):
    monkeypatch.chdir(photos)
    check_job(hub("ylecun/mnist"), SitePolicy())
    assert is_place("data/photos")
    with pytest.raises(ConfigError, match="a place on this machine"):
        check_job(hub("data/photos"), SitePolicy())
    check_job(hub("data/photos"), SitePolicy(data_folders=(photos / "data",)))
    assert place_of("imagefolder").samefile(photos)
    assert os.fspath(place_of("/nowhere")) == "/nowhere"
