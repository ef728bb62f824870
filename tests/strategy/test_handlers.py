"""Who speaks the delivery protocol: by handler, by the type of a message, by what stands before the mod."""

import time

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAvg

from flserve_app.client import versioned_mod
from flserve_app.client.records import to_artifact
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.strategy import VersionedStrategy
from tests.apps import drift, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate
from tests.strategy.test_models import by_partition

ROUNDS, CLIENTS = 4, 2


def reads_the_config(message, context, call_next):
    message.content["config"]["server-round"]
    return call_next(message, context)


def reads_the_arrays(message, context, call_next):
    message.content["arrays"]
    return call_next(message, context)


def reads_the_reply(message, context, call_next):
    reply = call_next(message, context)
    if set(message.content) >= RECORDS and message.metadata.message_type == "train":
        reply.content["arrays"]
    return reply


RECORDS = {"config"}


def app(mods=(), train=None, evaluate=None, name="", lenient=False):
    """A ClientApp with mods before all handlers, or before one, and handlers that have names."""
    made = ClientApp(mods=list(mods))
    action = [name] if name else []

    @made.train(*action, mods=list(train or ()))
    def trains(message, context):
        number, partition = message.content["config"]["server-round"], context.node_config["partition-id"]
        content = {"arrays": drift(message.content["arrays"], number, partition)}
        content["metrics"] = MetricRecord({"num-examples": 1 + partition})
        return Message(RecordDict(content), reply_to=message)

    @made.evaluate(*action, mods=list(evaluate or ()))
    def evaluates(message, context):
        found = message.content.get("arrays", ArrayRecord()) if lenient else message.content["arrays"]
        total = float(sum(np.abs(array.numpy()).sum() for array in found.values()))
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "total": total})}), reply_to=message)

    return made


class Named(FedAvg):
    def configure_train(self, *args):
        return self.named(super().configure_train(*args), "train.local")

    def configure_evaluate(self, *args):
        return self.named(super().configure_evaluate(*args), "evaluate.local")

    def named(self, messages, kind):
        return [Message(each.content, each.metadata.dst_node_id, kind) for each in messages]


ALL = {"min_train_nodes": CLIENTS, "min_evaluate_nodes": CLIENTS, "min_available_nodes": CLIENTS}
OURS = [versioned_mod]
# The app with and without our mod, the strategy, and how many messages of the last round go plain.
CASES = {
    "all handlers": (lambda ours: app(ours), FedAvg, 0),
    "named handlers": (lambda ours: app(ours, name="local"), Named, 0),
    "a mod in front that reads the config": (lambda ours: app([reads_the_config, *ours]), FedAvg, 0),
    "names and a mod in front": (lambda ours: app([reads_the_config, *ours], name="local"), Named, 0),
    "a mod in front that reads the arrays": (lambda ours: app([reads_the_arrays, *ours]), FedAvg, 4),
    "a mod in front that reads the reply": (lambda ours: app([reads_the_reply, *ours]), FedAvg, 2),
    "before training alone": (lambda ours: app(train=ours), FedAvg, 2),
    "before evaluation alone": (lambda ours: app(evaluate=ours), FedAvg, 2),
    "a handler that takes what there is": (lambda ours: app(train=ours, lenient=True), FedAvg, 2),
    "named, before one alone": (lambda ours: app(train=ours, name="local"), Named, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_it_trains_and_evaluates_as_without_us(tmp_path, case):
    made, kind, plain = CASES[case]
    alone = by_partition(FleetGrid(app=made([]), size=CLIENTS))
    want = kind(**ALL).start(alone, small_floats(), num_rounds=ROUNDS)
    run = federate(
        tmp_path / "s",
        grid=FleetGrid(app=made(OURS), size=CLIENTS),
        inner=kind(**ALL),
        rounds=ROUNDS,
        initial=small_floats(),
    )
    assert to_artifact(run.result.arrays) == to_artifact(want.arrays)
    assert run.result.evaluate_metrics_clientapp == want.evaluate_metrics_clientapp
    assert [row.failures for row in run.rows] == [0] * (ROUNDS + 1)
    assert run.rows[-1].plans.get("plain", 0) == plain
    assert sum(run.rows[-1].plans.values()) == 2 * CLIENTS, "nothing is sent twice for ever"


def small_floats():
    return ArrayRecord({name: array for name, array in small_arrays().items() if not name.startswith("bn")})


def test_an_app_that_only_evaluates_is_greeted_with_evaluation(tmp_path):
    made = ClientApp(mods=OURS)

    @made.evaluate()
    def evaluates(message, context):
        assert list(message.content["arrays"]) == list(small_floats())
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    inner = FedAvg(fraction_train=0.0, min_evaluate_nodes=CLIENTS, min_available_nodes=CLIENTS)
    run = federate(tmp_path / "s", grid=FleetGrid(app=made, size=CLIENTS), inner=inner, initial=small_floats())
    assert [row.plans for row in run.rows[1:]] == [{"full": 2}, {"none": 2}, {"none": 2}]


def test_the_greetings_error_is_in_the_log(tmp_path, caplog):
    def broken(message, context, call_next):
        raise ValueError("no such \x1b[31mthing")

    caplog.set_level("INFO", logger="flwr")
    grid = FleetGrid(app=app([broken, *OURS]), size=1)
    federate(tmp_path / "s", grid=grid, inner=fedavg(1), rounds=1, initial=small_floats())
    (said,) = [line for line in caplog.messages if "gets plain arrays until it answers in train" in line]
    assert said.endswith("it failed on its greeting: ValueError: no such thing")


def test_what_stands_before_one_handler_only_is_said(tmp_path, caplog):
    grid = FleetGrid(app=app(train=OURS), size=1)
    federate(tmp_path / "s", grid=grid, inner=fedavg(1, evaluate=1), rounds=3, initial=small_floats())
    (said,) = [line for line in caplog.messages if "with evaluate messages" in line]
    assert said.startswith("flserve: partition-0 gets plain arrays with evaluate messages: its handler has no")
    assert "KeyError" in said


def test_a_handler_that_fails_by_itself_fails_as_without_us(tmp_path):
    calls = []

    def fails(message, context, call_next):
        calls.append(message.metadata.message_type)
        raise RuntimeError("no data today")

    grid = FleetGrid(app=lambda number: app([versioned_mod, *([fails] if number else [])]), size=2)
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(2), rounds=4, initial=small_floats())
    assert [row.failures for row in run.rows] == [0, 1, 1, 1, 1]
    assert len(calls) == 4, "nobody trains twice in a round"
    assert "plain" not in run.rows[-1].plans


def test_one_bad_moment_counts_as_without_us_and_does_not_end_deliveries(tmp_path):
    bad = [1]

    def once(message, context, call_next):
        if bad:
            bad.pop()
            raise RuntimeError("a bad moment")
        return call_next(message, context)

    grid = FleetGrid(app=app([versioned_mod, once]), size=1)
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(1), rounds=3, initial=small_floats())
    assert [row.clients for row in run.rows[1:]] == [0, 1, 1]
    assert "plain" not in run.rows[-1].plans


def test_a_greeting_has_the_records_and_never_the_arrays_of_the_message(tmp_path):
    seen = []

    def spying(message, context, call_next):
        seen.append((message.metadata.message_type, sorted(message.content)))
        return reads_the_config(message, context, call_next)

    grid = FleetGrid(app=app([spying, *OURS]), size=1)
    federate(tmp_path / "s", grid=grid, inner=fedavg(1), rounds=1, initial=small_floats())
    assert seen[:2] == [("train", ["flserve"]), ("train", ["config", "flserve"])]


def test_a_greeting_that_nobody_answers_in_time_leaves_the_error_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("flserve_app.strategy.roster.START_SECONDS", 0.05)
    calls, dropped = [], []

    def fails(message, context, call_next):
        calls.append(message.metadata.message_type)
        raise RuntimeError("no data today")

    def lost(message):
        hello = message.content.get("flserve") if message.has_content() else None
        if calls and hello is not None and hello.get("action") == "hello":
            dropped.append(message)
            return None
        return message

    grid = FleetGrid(app=app([versioned_mod, fails]), size=1, down=[lost])
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(1), rounds=4, initial=small_floats())
    assert [row.failures for row in run.rows] == [0, 1, 1, 1, 1]
    assert (len(calls), len(dropped)) == (4, 2)


def test_what_nobody_read_says_nothing_of_a_handler(tmp_path):
    def unreachable(message):
        if message.metadata.message_type == "evaluate":
            return make_message(message.metadata, error=Error(ErrorCode.NODE_UNAVAILABLE, "gone"))
        return message

    grid = FleetGrid(app=app(OURS), size=1, up=[unreachable])
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(1, evaluate=1), rounds=2, initial=small_floats())
    assert [row.failures for row in run.rows] == [0, 1, 1]
    assert "resend" not in run.rows[1].plans
    assert all("plain" not in row.plans for row in run.rows)


def test_the_log_says_before_the_greeting_that_an_error_is_expected(tmp_path, caplog):
    caplog.set_level("INFO", logger="flwr")
    federate(tmp_path / "s", grid=FleetGrid(app=app(), size=1), inner=fedavg(1), rounds=1, initial=small_floats())
    expected = next(at for at, line in enumerate(caplog.messages) if "an error of its handler now, which is" in line)
    assert "gets plain arrays until it answers" in "".join(caplog.messages[expected:])


@pytest.mark.parametrize("ours", [OURS, []], ids=["with the mod", "without"])
def test_a_client_of_flowers_older_api_is_told_how_to_upgrade(tmp_path, caplog, ours):
    class Older(NumPyClient):
        def fit(self, parameters, config):
            return parameters, 1, {}

    grid = FleetGrid(app=ClientApp(lambda context: Older().to_client(), mods=ours), size=2)
    federate(tmp_path / "s", grid=grid, inner=fedavg(2), rounds=1, initial=small_floats())
    (said,) = [line for line in caplog.messages if "older API" in line]
    assert "@app.train() and @app.evaluate(), as the guide says, https://flower.ai/docs" in said


class Alternating(FedAvg):
    """Other handlers in every second round."""

    def configure_train(self, server_round, *args):
        kind = "train.local" if server_round % 2 else "train"
        messages = super().configure_train(server_round, *args)
        return [Message(each.content, each.metadata.dst_node_id, kind) for each in messages]


@pytest.mark.parametrize("where", ["app", "local", "default", "one client"])
def test_an_app_of_several_handlers_and_clients_of_several_apps_train_as_without_us(tmp_path, where):
    def made(number, ours):
        before = {"app": ours if where == "app" or (where == "one client" and number) else []}
        one = ClientApp(mods=before["app"])
        for action in ([], ["local"]):
            mods = ours if where == (action[0] if action else "default") else []

            @one.train(*action, mods=mods)
            def trains(message, context, action=action):
                number, partition = message.content["config"]["server-round"], context.node_config["partition-id"]
                content = {"arrays": drift(message.content["arrays"], number + 10 * len(action), partition)}
                content["metrics"] = MetricRecord({"num-examples": 1 + partition})
                return Message(RecordDict(content), reply_to=message)

        return one

    def grid(ours):
        return by_partition(FleetGrid(app=lambda number: made(number, ours), size=CLIENTS))

    want = Alternating(**ALL, fraction_evaluate=0.0).start(grid([]), small_floats(), num_rounds=ROUNDS)
    inner = Alternating(**ALL, fraction_evaluate=0.0)
    run = federate(tmp_path / "s", grid=grid(OURS), inner=inner, rounds=ROUNDS, initial=small_floats())
    assert to_artifact(run.result.arrays) == to_artifact(want.arrays)
    assert [row.failures for row in run.rows] == [0] * (ROUNDS + 1)


def rows_of_slow_handlers(folder):
    """An app whose handlers have names, on nodes that take half a second to answer whatever meets these."""

    def slow(message, context, call_next):
        if message.metadata.message_type != "train":
            time.sleep(0.5)
        return call_next(message, context)

    rows = []
    with InProcessGrid(app([slow, *OURS], name="local"), CLIENTS) as grid:
        inner = Named(**ALL, fraction_evaluate=0.0)
        strategy = VersionedStrategy(inner, store=folder, num_clients=CLIENTS, observer=rows.append)
        strategy.start(grid, small_floats(), num_rounds=1, timeout=30)
        strategy.registry.close()
    return rows


def test_named_handlers_that_answer_slowly_get_deliveries_in_the_first_round(tmp_path, monkeypatch):
    """What is rounded on its way, and so the digest, must not depend on how fast a node starts its app."""
    monkeypatch.setattr("flserve_app.strategy.roster.START_SECONDS", 10.0)
    assert rows_of_slow_handlers(tmp_path)[1].plans == {"full": CLIENTS}


def test_those_that_answer_too_late_are_counted(tmp_path, caplog):
    assert rows_of_slow_handlers(tmp_path)[1].plans == {"plain": CLIENTS}
    assert f"{CLIENTS} of {CLIENTS} nodes did not answer the greeting" in caplog.text
