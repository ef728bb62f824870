import pytest

from flserve_app.compose.resumption import check_resumable, clients_before, differences
from flserve_app.errors import ConfigError, Conflict
from flserve_app.registry import Registry
from tests.compose.jobs import run
from tests.registry.samples import drifting

BASE = {
    "seed": 1,
    "task": {"name": "digits", "n": 20, "hub": {"dataset": "x"}},
    "model": {"name": "mlp", "arguments": {"hidden": 4}},
    "roles": [{"a.*": "private"}],
    "num_clients": 3,
    "num_rounds": 5,
    "train": {"lr": 0.1},
    "resume": True,
}


def keys(changes, recorded=BASE):
    return [key for key, _, _ in differences(recorded, {**BASE, **changes})]


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({}, []),
        ({"seed": 2}, ["seed"]),
        ({"task": {"name": "digits", "n": 21, "hub": {"dataset": "y"}}}, ["task.hub.dataset", "task.n"]),
        ({"model": {"name": "cnn", "arguments": {}}, "seed": 3}, ["seed", "model.arguments.hidden", "model.name"]),
        ({"model": {"name": "mlp", "arguments": {"hidden": 4, "norm": True}}}, ["model.arguments.norm"]),
        ({"roles": []}, ["roles"]),
        ({"num_clients": 4}, ["num_clients"]),
        ({"num_rounds": 9, "train": {"lr": 1}, "timeout": 3, "store": "/x", "resume": False}, []),
        ({"num_clients": 3.0}, []),
    ],
)
def test_what_must_agree(changes, differing):
    assert keys(changes) == differing


def test_what_one_of_both_does_not_know_is_no_difference():
    assert keys({"task": {"name": "digits", "n": 20, "hub": {"dataset": "x"}, "newer": 1}}) == []
    assert keys({}, recorded={"lr": 0.1, "seed": 1}) == []
    assert keys({}, recorded={}) == []
    assert keys({}, recorded={"seed": 2, "other": {"seed": 5}}) == ["seed"]


@pytest.fixture
def registry(tmp_path):
    with Registry.open(tmp_path / "s") as opened:
        yield opened


def publish(registry, run, config):
    if run is not None:
        registry.start_run(run, "m", config=config)
    number = len(registry.versions("m"))
    registry.publish(
        "m", drifting(6)[number], round=number, run=run, parent=number - 1 if number else None, codec="full"
    )


def test_a_new_model_is_anybodys(registry):
    assert check_resumable(registry, "m", BASE) is None


def test_what_is_compared_is_the_run_that_published_last(registry):
    publish(registry, "r1", {**BASE, "seed": 2})
    publish(registry, "r2", BASE)
    registry.start_run("r3", "m", config={**BASE, "seed": 4})  # it published nothing
    publish(registry, None, None)
    assert check_resumable(registry, "m", BASE).number == 2
    with pytest.raises(Conflict, match=r"'m' was trained with seed 1, not 2: .* choose another model_name"):
        check_resumable(registry, "m", {**BASE, "seed": 2})


def test_a_model_without_a_run_tells_nothing(registry):
    publish(registry, None, None)
    assert check_resumable(registry, "m", {**BASE, "seed": 2}).number == 0
    with pytest.raises(Conflict, match="is in the store already"):
        check_resumable(registry, "m", {**BASE, "resume": False})


def test_many_differences_and_odd_texts_stay_one_line(registry):
    odd = {"name": "a\x1b[31m\nb" + "x" * 500, "n": 1, "hub": {"dataset": "q"}}
    publish(registry, "r", {**BASE, "task": odd, "seed": 9, "num_clients": 8})
    with pytest.raises(Conflict, match=" and 2 more: ") as found:
        check_resumable(registry, "m", BASE)
    assert str(found.value).isprintable()
    assert len(str(found.value)) < 600


def test_as_many_clients_are_waited_for_as_before(registry):
    assert clients_before(registry, "m") is None
    publish(registry, "r1", {**BASE, "num_clients": 7})
    assert clients_before(registry, "m") == 7
    publish(registry, "r2", {**BASE, "num_clients": "many"})
    assert clients_before(registry, "m") is None


def test_a_store_of_its_own_that_is_new_holds_nothing_to_resume(tmp_path):
    with pytest.raises(ConfigError, match=r"resume=true: .*store would be a new store"):
        run(tmp_path, "resume=true")
    assert not list(tmp_path.iterdir())


def test_a_run_says_what_it_goes_on_from_and_that_it_found_nothing(tmp_path, caplog):
    store = f"store={tmp_path / 's'}"
    assert run(tmp_path / "1", store, rounds=1)["resumed_from"] is None
    assert run(tmp_path / "2", store, "resume=true", rounds=2)["resumed_from"] == "v1"
    assert "finds no model" not in caplog.text
    assert run(tmp_path / "3", store, "resume=true", "model_name=other", rounds=1)["resumed_from"] is None
    assert "finds no model 'other' in the store; it holds 'synthetic-mlp'" in caplog.text
