"""Published versions under a lossy codec: what is published is what everybody decodes."""

from itertools import pairwise
from math import log2

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM

from flserve_app.codec.composed import grid_between
from flserve_app.codec.feedback import Feedback
from flserve_app.codec.lossy import Lossy, lossy_of
from flserve_app.codec.ramp import Ramp
from flserve_app.errors import CodecError, ConfigError
from flserve_app.registry import Registry, verify
from tests.apps import numpy_app
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

# Of models as small as these nothing would be rounded; what makes steps finer is tested in `test_coarse`.
CODECS = {
    "grid": Lossy(name="grid", least=0),
    "topk": Lossy(name="topk", share=Ramp(0.2, 0.05, 4), least=0),
    "no feedback": Lossy(name="topk", share=Ramp(0.1, 0.1, 0), feedback=Feedback(decay=0), least=0),
}


def sampling(clients=4):
    return {
        "fraction_evaluate": 0.0,
        "min_train_nodes": clients,
        "min_available_nodes": clients,
    }


@pytest.fixture(params=list(CODECS))
def codec(request):
    return CODECS[request.param]


def digests(run):
    return [version.digest for version in run.registry.versions("model")]


def test_every_client_holds_what_was_published(tmp_path, codec):
    run = federate(tmp_path / "s", codec=codec, inner=fedavg(4, 3, 4), rounds=6)
    assert [version.codec for version in run.registry.versions("model")][1:] == [codec.name] * 6
    # Every client evaluated the last version: what it verified then is what the store holds.
    assert {client.held[0] for client in run.strategy._grid.fleet.clients.values()} == {run.digest}
    assert run.total("failures") == 0
    with Registry.open(tmp_path / "s", create=False) as registry:
        assert verify(registry).clean
        assert [registry.load(version).digest for version in registry.versions("model")] == digests(run)


def test_deliveries_are_the_payloads_of_the_history(tmp_path):
    run = federate(tmp_path / "s", codec=CODECS["no feedback"], inner=fedavg(4), rounds=4)
    versions = run.registry.versions("model")
    stored = [
        len(run.registry.payload(after.digest, before.digest, "topk") or b"") for before, after in pairwise(versions)
    ]
    sent = [row.bytes_down for row in run.rows[2:]]
    assert sent == [4 * size for size in stored[:-1]]


def test_two_runs_are_alike(tmp_path, codec):
    one, other = (federate(tmp_path / name, codec=codec, inner=fedavg(4, 2), rounds=4) for name in "ab")
    assert digests(one) == digests(other)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_is_resumed_adds_what_was_left_out(tmp_path, codec, stop):
    whole = federate(tmp_path / "whole", codec=codec, inner=fedavg(4, 2), rounds=4)
    federate(tmp_path / "parts", codec=codec, inner=fedavg(4, 2), rounds=stop)
    rest = federate(tmp_path / "parts", codec=codec, inner=fedavg(4, 2), rounds=4, resume=True)
    assert digests(rest) == digests(whole)


@pytest.mark.slow
def test_with_feedback_it_stays_near_the_exact_run_and_without_it_does_not(tmp_path):
    exact = federate(tmp_path / "exact", rounds=12)
    near, far = (
        federate(
            tmp_path / str(decay),
            codec=Lossy(name="topk", share=Ramp(0.25, 0.25, 0), feedback=Feedback(decay=decay, cap=1e6), least=0),
            rounds=12,
        )
        for decay in (1.0, 0.0)
    )

    def distance(run):
        mine, theirs = (each.registry.load(each.digest) for each in (run, exact))
        floats = [name for name in mine if mine[name].dtype.kind == "f"]
        return sum(float(((mine[name].astype("f8") - theirs[name]) ** 2).sum()) for name in floats)

    assert distance(near) < 0.5 * distance(far)


def test_statistics_and_counters_are_exact(tmp_path):
    run = federate(tmp_path / "s", codec=CODECS["topk"], rounds=2, initial=with_statistics())
    exact = federate(tmp_path / "exact", rounds=2, initial=with_statistics())
    mine, theirs = (each.registry.load(each.digest) for each in (run, exact))
    assert not np.array_equal(mine["w"], theirs["w"])
    # One round on, they differ because the weights that clients trained from do.
    first = [each.registry.load(each.registry.versions("model")[1]) for each in (run, exact)]
    for name in ("bn.running_mean", "steps"):
        assert np.array_equal(first[0][name], first[1][name])


def with_statistics():
    random = np.random.RandomState(0)
    return ArrayRecord(
        {
            "w": Array(random.standard_normal((40, 30)).astype("f4")),
            "bn.running_mean": Array(random.standard_normal(30).astype("f4")),
            "steps": Array(np.array(0, "i8")),
        }
    )


@pytest.mark.parametrize("inner", [FedAdam, FedAvgM])
def test_adaptive_strategies_go_on_from_what_was_published(tmp_path, inner):
    settings = {"server_momentum": 0.5} if inner is FedAvgM else {}
    run = federate(tmp_path / "s", codec=CODECS["topk"], inner=inner(**sampling(), **settings), rounds=3)
    assert run.total("failures") == 0
    assert len(set(digests(run))) == 4
    if inner is FedAvgM:
        before_last = run.registry.load(run.registry.versions("model")[2])
        # It was given the published arrays before it made the last version.
        assert set(before_last) == set(run.strategy.inner.current_arrays)


def test_nothing_to_change_is_a_version_without_bytes(tmp_path):
    def echo(message, *_):
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message)

    grid = FleetGrid(app=numpy_app(on_train=echo), size=4)
    run = federate(tmp_path / "s", codec=CODECS["grid"], grid=grid, rounds=2)
    assert len(set(digests(run))) == 1
    assert run.registry.versions("model")[2].stored == 0


@pytest.mark.parametrize("uplink", ["grid", "topk"])
def test_updates_are_rounded_as_the_server_says(tmp_path, uplink):
    exact = federate(tmp_path / "exact", uplink="lossless-small")
    run = federate(tmp_path / "s", uplink=CODECS[uplink])
    assert run.total("failures") == 0
    assert run.total("bytes_up") < 0.5 * exact.total("bytes_up")
    # The published version is exact where only updates are rounded: every tensor moved by what was decoded.
    first, second = (each.registry.load(each.registry.versions("model")[1]) for each in (run, exact))
    assert not np.array_equal(first["fc.weight"], second["fc.weight"])
    assert first["bn.num_batches_tracked"] == second["bn.num_batches_tracked"]


def test_fine_steps_reach_everybody_both_ways(tmp_path):
    fine = lossy_of("grid", {"scope": "model", "fine": True, "multiple": 1.3, "least": 0})
    run = federate(tmp_path / "s", codec=fine, uplink=fine, inner=fedavg(4, 2), rounds=4)
    assert run.total("failures") == 0
    versions = [run.registry.load(version) for version in run.registry.versions("model")]
    steps = {grid_between(new, old, "fc.weight") for old, new in pairwise(versions)}
    assert any(step and not log2(step).is_integer() for step in steps)


@pytest.mark.slow
def test_both_ways_two_runs_are_alike_and_a_resumed_one_too(tmp_path, codec):
    def run(name, **settings):
        # Clients keep what is left of their updates, too: in a directory that outlives the run.
        grid = FleetGrid(app=numpy_app(), size=4, node_config={"cache-dir": str(tmp_path / f"cache-{name}")})
        return federate(tmp_path / name, grid=grid, codec=codec, uplink=codec, inner=fedavg(4, 2), **settings)

    one, other = run("a", rounds=3), run("b", rounds=3)
    run("c", rounds=2)
    rest = run("c", rounds=3, resume=True)
    assert digests(one) == digests(other) == digests(rest)


def test_settings_come_from_a_configuration():
    assert lossy_of("lossless", {}) is None
    found = lossy_of("topk", {"share": [0.02, 0.005, 40], "levels": 1, "decay": 0})
    assert found == Lossy(name="topk", share=Ramp(0.02, 0.005, 40), levels=1, feedback=Feedback(decay=0))
    assert [found.at(number).share for number in (1, 41)] == [0.02, 0.005]
    assert lossy_of("grid", {"multiple": 8}).at(3).multiple == 8
    between = lossy_of("grid", {"scope": "model", "fine": True}).at(1)
    assert (between.scope, between.fine) == ("model", True)
    assert lossy_of("topk", {"fine": True}).at(1).fine


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("zip", {}, "unknown codec 'zip'"),
        ("lossless", {"share": 1}, "codec lossless: argument 'share' is unknown; known: none"),
        ("topk", {"multiple": 1}, "codec topk: argument 'multiple' is unknown"),
        ("topk", {"share": "much"}, "codec topk: share is 'much'"),
        ("topk", {"share": 1.5}, "codec topk: share is 1.5, expected at most 1"),
        ("topk", {"share": [0.5, 2, 9]}, "codec topk: share is 2, expected at most 1"),
        ("grid", {"multiple": -2}, "codec grid: multiple: found -2, expected numbers above 0"),
        ("grid", {"multiple": [4, 2, -3]}, "codec grid: multiple: found -3 rounds, expected a whole number"),
        ("grid", {"multiple": 1e300}, "multiple is 1e\\+300, expected a number above 0 and below 2"),
        ("topk", {"levels": 0}, "levels is 0, expected 1 to 8388607"),
        ("topk", {"levels": "two"}, "codec topk: an argument is no number"),
        ("grid", {"zone": 2}, "zone is 2, expected 0.5 to 1"),
        ("grid", {"scope": "row"}, "scope is 'row', expected one of tensor, model"),
        ("grid", {"fine": "very"}, "fine is 'very', expected true or false"),
        ("topk", {"scope": "model"}, "codec topk: argument 'scope' is unknown"),
        ("grid", {"decay": -1}, "decay"),
    ],
)
def test_settings_out_of_range_are_one_sentence(name, arguments, said):
    with pytest.raises(CodecError, match=said):
        lossy_of(name, arguments)


def test_a_sparse_uplink_is_refused_where_replies_are_compared(tmp_path):
    from flwr.serverapp.strategy import FedMedian

    with pytest.raises(ConfigError, match="uplink topk cannot be combined with FedMedian: it compares"):
        federate(tmp_path / "s", uplink=CODECS["topk"], inner=FedMedian(**sampling()))
