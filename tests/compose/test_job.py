import json
import random

import pytest
import yaml
from flwr.clientapp import ClientApp

from flserve_app import client_app
from flserve_app.client import versioned_mod
from flserve_app.compose.job import check, run_job
from flserve_app.config import load
from flserve_app.errors import ConfigError, Conflict, DeliveryError, FlserveError, Interrupted, StoreError, TaskError
from flserve_app.registry import Registry
from tests.compose.jobs import composed, run
from tests.fleet import FleetGrid

FIELDS = {
    "run", "folder", "store", "model_name", "codec", "uplink", "seed", "clients", "rounds", "versions",
    "resumed_from", "final_version",
    "final_digest", "final_accuracy", "final_loss", "final_client_accuracy",
    "client_versions", "failures", "bytes_down", "bytes_up",
    "bytes_down_message", "bytes_up_message", "bytes_down_full", "bytes_up_full", "payloads", "seconds",
}  # fmt: skip


def rows_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    seen = []
    summary = run(folder, "strategy.clients_per_evaluation=2", "seed=5", rounds=3, observer=seen.append)
    return folder, summary, seen


def test_a_run_leaves_its_folder(done):
    folder, summary, seen = done
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "history.jsonl", "store", "summary.json"]
    assert json.loads((folder / "summary.json").read_text()) == summary
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["seed"], config["task"]["dim"], config["codec"]["name"]) == (5, 4, "lossless")
    rows = rows_of(folder)
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert [row["digest"] for row in rows] == [row.digest for row in seen]


def test_the_summary_sums_the_rows_up(done):
    folder, summary, _ = done
    rows = rows_of(folder)
    assert set(summary) == FIELDS
    assert set(summary["payloads"]) == {"hits", "encodes", "reads", "held_bytes"}
    assert summary["payloads"]["hits"] > summary["payloads"]["reads"] > 0
    for field in (
        "bytes_down",
        "bytes_up",
        "bytes_down_message",
        "bytes_up_message",
        "bytes_down_full",
        "bytes_up_full",
    ):
        assert summary[field] == sum(row[field] for row in rows) > 0
    last = rows[-1]
    assert summary["final_digest"] == last["digest"]
    assert summary["final_accuracy"] == last["accuracy"]
    assert summary["client_versions"] == last["client_versions"]
    assert sum(summary["client_versions"].values()) == 3
    assert (summary["rounds"], summary["versions"], summary["final_version"], summary["clients"]) == (3, 4, 3, 3)
    assert summary["folder"] == str(folder)
    assert summary["store"] == str(folder / "store")


def test_the_store_knows_the_run_and_what_serving_takes(done):
    folder, summary, _ = done
    with Registry.open(folder / "store", create=False) as registry:
        versions = registry.versions("synthetic-mlp")
        (entry,) = registry.runs("synthetic-mlp")
    assert (entry.run, entry.state, entry.config["seed"]) == (summary["run"], "finished", 5)
    assert {version.run for version in versions} == {summary["run"]}
    last = versions[-1]
    assert last.digest == summary["final_digest"]
    assert last.metrics["accuracy"] == summary["final_accuracy"]
    assert last.metrics["client_accuracy"] > 0
    assert (last.serving.model_id, dict(last.serving.arguments)) == ("mlp", {"hidden": 4})
    assert last.serving.inputs[0]["shape"] == [None, 4]
    assert len(last.serving.classes) == 3


@pytest.mark.slow
def test_training_learns_and_delivery_changes_nothing(tmp_path):
    options = ("task.n=100", "train.lr=0.5", "strategy.clients_per_round=2")
    full, lossless, small = (
        run(tmp_path / str(at), *options, f"codec={codec}", f"uplink={codec}", rounds=4)
        for at, codec in enumerate(["full", "lossless", "lossless-small"])
    )
    assert full["final_digest"] == lossless["final_digest"] == small["final_digest"]
    assert full["final_accuracy"] > 0.5
    assert lossless["bytes_down"] < full["bytes_down"]
    assert lossless["bytes_up"] < full["bytes_up"]
    assert lossless["bytes_down_full"] == full["bytes_down_full"]


def test_another_seed_is_another_run(tmp_path):
    assert run(tmp_path / "a", "seed=1")["final_digest"] != run(tmp_path / "b", "seed=2")["final_digest"]


def test_the_callers_random_numbers_do_not_matter(tmp_path):
    def first_drawn(seed):
        return random.Random(seed).sample(range(3), 1)

    digests, other = set(), next(seed for seed in range(2, 50) if first_drawn(seed) != first_drawn(1))
    for seed in (1, other):
        random.seed(seed)
        digests.add(run(tmp_path / str(seed), "strategy.clients_per_round=1")["final_digest"])
    assert len(digests) == 1


def test_a_shared_store_goes_on_only_when_asked_to(tmp_path):
    shared = f"store='{tmp_path}/shared store'"
    whole = run(tmp_path / "whole", rounds=3)
    first = run(tmp_path / "a", shared, rounds=1)
    with pytest.raises(Conflict, match="'synthetic-mlp' is in the store already, at v1"):
        run(tmp_path / "b", shared, rounds=3)
    with Registry.open(tmp_path / "shared store") as registry:
        assert [entry.run for entry in registry.runs()] == [first["run"]]
        assert len(registry.versions("synthetic-mlp")) == 2
    rest = run(tmp_path / "c", shared, "resume=true", rounds=3)
    assert rest["final_digest"] == whole["final_digest"]
    assert (rest["versions"], rest["final_version"]) == (4, 3)
    assert not (tmp_path / "c" / "store").exists()
    other = run(tmp_path / "d", shared, "model_name=other", rounds=0)
    assert (other["versions"], other["model_name"]) == (1, "other")


def test_a_run_that_fails_midway_keeps_its_rows_and_is_marked(tmp_path):
    def fail(row):
        if row.round == 1:
            raise StoreError("the disk is full")

    with pytest.raises(StoreError, match="the disk is full"):
        run(tmp_path / "run", observer=fail)
    assert [row["round"] for row in rows_of(tmp_path / "run")] == [0, 1]
    assert not (tmp_path / "run" / "summary.json").exists()
    with Registry.open(tmp_path / "run" / "store") as registry:
        (entry,) = registry.runs()
        assert entry.state == "failed"
        assert [version.number for version in registry.versions("synthetic-mlp")] == [0, 1]


def test_clients_are_counted_where_no_number_is_given(tmp_path, monkeypatch):
    from flserve_app.strategy import nodes

    monkeypatch.setattr(nodes, "STILL_SECONDS", 0.05)
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.01)
    grid = FleetGrid(app=client_app.app, size=4)
    assert run(tmp_path / "run", "num_clients=null", grid=grid, rounds=1)["clients"] == 4


def test_a_run_without_rounds_publishes_the_initial_model(tmp_path):
    summary = run(tmp_path / "run", rounds=0)
    assert (summary["versions"], summary["rounds"], summary["bytes_down"]) == (1, 0, 0)
    assert summary["final_accuracy"] is not None


@pytest.mark.slow
def test_a_batchnorm_model_runs_under_all_codecs(tmp_path):
    options = ("task=digits", "model=cnn", "model.arguments.width=2", "model.arguments.norm=true")
    with pytest.raises(ConfigError):
        load([*options, "model.arguments.hidden=3"])
    digests = set()
    for codec in ("full", "lossless"):
        grid = FleetGrid(app=client_app.app, size=2)
        config = load(
            [*options, "num_clients=2", "num_rounds=2", f"codec={codec}", f"uplink={codec}", "train.epochs=1"]
        )
        digests.add(run_job(grid, config, tmp_path / codec, lambda row: None)["final_digest"])
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("strategy.clients_per_round=4", ConfigError, "strategy.clients_per_round is 4, there are 3 clients"),
        ("strategy.clients_per_evaluation=9", ConfigError, "strategy.clients_per_evaluation is 9, there are 3 clients"),
        ("strategy.name=other", ConfigError, "strategy 'other' is unknown; known: fedavg"),
        ("+strategy.arguments.magic=1", ConfigError, "strategy fedavg: .*magic"),
        ("model.name=other", TaskError, "unknown model 'other'"),
        ("model.arguments.hidden=0", TaskError, "hidden must be an integer of 1 or more"),
        ("task.name=other", TaskError, "unknown task 'other'"),
        ("task.partition=odd", TaskError, "odd"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(tmp_path, override, error, message):
    with pytest.raises(error, match=message):
        check(composed(override).app, 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_check_refuses_a_name_that_is_taken(tmp_path):
    shared = f"store={tmp_path}/shared"
    check(composed(shared).app, 3, tmp_path / "a")
    run(tmp_path / "a", shared, rounds=0)
    with pytest.raises(Conflict, match="is in the store already"):
        check(composed(shared).app, 3, tmp_path / "b")
    check(composed(shared, "resume=true").app, 3, tmp_path / "b")


def test_an_unknown_codec_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="unknown codec 'zip'; known: full"):
        run(tmp_path / "run", "codec.name=zip")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=6", "seed 42, not 6"),
        ("model.arguments.hidden=5", "model.arguments.hidden 4, not 5"),
        ("task.n=21", "task.n 20, not 21"),
        ("task.partition=dirichlet", "task.partition 'iid', not 'dirichlet'"),
        ("clients", "num_clients 3, not 4"),
    ],
)
def test_resuming_with_other_data_or_another_model_is_one_sentence_and_changes_nothing(tmp_path, override, named):
    shared = f"store={tmp_path}/shared"
    run(tmp_path / "a", shared, rounds=1)
    with Registry.open(tmp_path / "shared") as registry:
        before = registry.versions("synthetic-mlp"), registry.runs()
    options = {"clients": 4} if override == "clients" else {}
    overrides = () if override == "clients" else (override,)
    message = f"'synthetic-mlp' was trained with {named}: resume=true goes on .* choose another model_name"
    with pytest.raises(Conflict, match=message):
        check(composed(shared, "resume=true", *overrides).app, options.get("clients", 3), tmp_path / "b")
    with pytest.raises(Conflict, match=message):
        run(tmp_path / "b", shared, "resume=true", *overrides, rounds=2, **options)
    assert not (tmp_path / "b").exists()
    with Registry.open(tmp_path / "shared") as registry:
        assert (registry.versions("synthetic-mlp"), registry.runs()) == before
    assert run(tmp_path / "c", shared, "model_name=other", *overrides, rounds=1, **options)["versions"] == 2


def test_how_training_goes_on_may_change_and_is_recorded(tmp_path):
    shared = f"store={tmp_path}/shared"
    run(tmp_path / "a", shared, rounds=1)
    changed = ("train.lr=0.01", "codec=full", "strategy.clients_per_round=2", "timeout=5", "engine=inprocess")
    assert run(tmp_path / "b", shared, "resume=true", *changed, rounds=2)["final_version"] == 2
    (tmp_path / "shared").rename(tmp_path / "moved")
    assert run(tmp_path / "c", f"store={tmp_path}/moved", "resume=true", rounds=3)["final_version"] == 3
    with Registry.open(tmp_path / "moved") as registry:
        assert [entry.config["train"]["lr"] for entry in registry.runs()] == [0.05, 0.01, 0.05]


def test_a_refused_run_leaves_the_run_before_it_as_it_was(tmp_path):
    run(tmp_path / "r", rounds=1)
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    refused = [("seed=9", "train.lr=0.5"), ("resume=true", "seed=9"), ("resume=true", "model_name=n")]
    for overrides in (*refused, ("resume=true", "strategy.name=fedyogi", "strategy.clients_per_round=9")):
        with pytest.raises(FlserveError):
            run(tmp_path / "r", *overrides, rounds=3)
        with pytest.raises(FlserveError):
            check(composed(*overrides).app, 3, tmp_path / "r")
        after = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
        assert {path: after[path] for path in before if "store" not in path.parts} == {
            path: content for path, content in before.items() if "store" not in path.parts
        }
    assert run(tmp_path / "r", "resume=true", rounds=2)["final_version"] == 2


def test_a_second_run_of_a_model_is_refused_while_the_first_lasts(tmp_path):
    shared, refused = f"store={tmp_path}/shared", []

    def meanwhile(row):
        for attempt in (lambda: run(tmp_path / "b", shared, "resume=true"), lambda: check(again, 3, tmp_path / "b")):
            with pytest.raises(
                Conflict, match=r"'synthetic-mlp' is being trained by run .* \(process \d+ on "
            ) as found:
                attempt()
            refused.append(str(found.value))
        assert not (tmp_path / "b").exists()

    again = composed(shared, "resume=true").app
    first = run(tmp_path / "a", shared, rounds=1, observer=meanwhile)
    assert all(first["run"] in said for said in refused)
    assert run(tmp_path / "b", shared, "resume=true", rounds=2)["final_version"] == 2


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt, "interrupted"),
        (SystemExit, "interrupted"),
        (Interrupted, "interrupted"),
        (MemoryError, "failed"),
    ],
)
def test_a_run_is_marked_by_how_it_ended(tmp_path, error, state):
    def end(row):
        if row.round == 1:
            raise error

    with pytest.raises(error):
        run(tmp_path / "run", observer=end)
    assert [row["round"] for row in rows_of(tmp_path / "run")] == [0, 1]
    with Registry.open(tmp_path / "run" / "store") as registry:
        (entry,) = registry.runs()
        assert (entry.state, entry.finished is not None) == (state, True)
        registry.leases.check_free("synthetic-mlp")


def test_a_run_in_which_no_client_ever_trains_is_a_failure_and_keeps_its_folder(tmp_path):
    silent = FleetGrid(app=ClientApp(mods=[versioned_mod]), size=2)  # no handler is registered
    with pytest.raises(DeliveryError, match="no round trained: 2 messages failed and none was answered"):
        run_job(silent, composed(clients=2, rounds=1), tmp_path, lambda row: None)
    assert json.loads((tmp_path / "summary.json").read_text())["failures"] == 2
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["num_clients"] == 2
