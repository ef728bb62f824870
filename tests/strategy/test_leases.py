"""Two lines are enough: strategies that know nothing of flserve's own job never share a model's name."""

import threading

import pytest

from flserve_app.errors import Conflict, StoreError
from flserve_app.registry import Registry
from tests.strategy.runs import federate


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_second_strategy_of_the_name_is_refused_while_the_first_runs(tmp_path, resume, shared):
    """From the first look at the name on, and whether or not the first has published."""
    store = Registry.open(tmp_path / "s") if shared else tmp_path / "s"
    refused = []

    def meanwhile(row):
        try:
            federate(store, rounds=2, resume=resume)
        except Conflict as error:
            refused.append(str(error))
        federate(store, rounds=0, model_name=f"other-{row.round}")

    first = federate(store, rounds=2, on_row=meanwhile)
    assert len(refused) == 3
    assert all("'model' is being trained by a run (process " in said for said in refused)
    assert [version.number for version in first.registry.versions("model")] == [0, 1, 2]
    assert federate(store, rounds=3, resume=True).strategy.version.number == 3


def test_of_many_that_begin_at_once_one_publishes(tmp_path):
    Registry.open(tmp_path / "s").close()
    outcomes, gate = [], threading.Barrier(6)

    def one(seed):
        gate.wait()
        try:
            outcomes.append(federate(tmp_path / "s", rounds=2, seed=seed).digest)
        except Conflict as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [said for said in outcomes if "is being trained by" in said or "is in the store already" in said]
    assert len(refused) == 5
    with Registry.open(tmp_path / "s") as registry:
        assert [version.parent for version in registry.versions("model")] == [None, 0, 1]


def test_a_run_that_fails_gives_the_name_back(tmp_path):
    def fail(row):
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        federate(tmp_path / "s", on_row=fail)
    assert federate(tmp_path / "s", rounds=1, resume=True).strategy.version.number == 1


def test_what_a_resumed_run_measures_replaces_nothing_that_was_recorded(tmp_path):
    federate(tmp_path / "s", rounds=1, evaluate_fn=lambda number, arrays: {"accuracy": 0.9}).registry.close()
    rest = federate(
        tmp_path / "s", rounds=2, resume=True, evaluate_fn=lambda number, arrays: {"accuracy": 0.1, "loss": 1.0}
    )
    versions = rest.registry.versions("model")
    assert [version.metrics["accuracy"] for version in versions] == [0.9, 0.9, 0.1]
    assert versions[1].metrics["loss"] == 1.0
    assert rest.rows[0].accuracy == 0.1
