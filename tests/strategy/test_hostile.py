"""One client that answers badly costs the others nothing: every row of the table, under every strategy.

A run has a round for each row. What comes out is compared, digest by digest, with a run in which the same node is
silent where its reply is to be left out, and answers honestly where it is an ordinary reply but for its form.
"""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower

from flserve_app.client import versioned_mod
from flserve_app.text import is_plain
from tests.fleet import FleetGrid
from tests.strategy import hostile
from tests.strategy.runs import federate

MODEL = {"w": np.linspace(-1, 1, 6, dtype="f4").reshape(3, 2), "b": np.zeros(2, "f4"), "n": np.asarray(3, "i8")}
ROBUST = {"FedMedian": {}, "FedTrimmedAvg": {}, "Krum": {}, "MultiKrum": {"num_nodes_to_select": 2}, "Bulyan": {}}
PLAIN = {
    "FedAvg": {},
    "FedProx": {"proximal_mu": 0.1},
    "FedAvgM": {"server_learning_rate": 0.9, "server_momentum": 0.5},
    "FedAdam": {"eta": 0.1, "tau": 1e-3},
    "FedAdagrad": {"eta": 0.1, "tau": 1e-3},
    "FedYogi": {"eta": 0.1, "tau": 1e-3},
    "QFedAvg": {"client_learning_rate": 0.2, "q": 0.2},
}
PRIVATE = [f"DifferentialPrivacy{side}Side{kind}Clipping" for side in ("Server", "Client") for kind in ("Fixed", "Adaptive")]
STRATEGIES = [*PLAIN, *ROBUST, *PRIVATE]


def strategy(name, clients, **settings):
    sampling = {"min_train_nodes": clients, "min_evaluate_nodes": clients, "min_available_nodes": clients, **settings}
    if name in PLAIN or name in ROBUST:
        return getattr(flower, name)(**sampling, **{**PLAIN, **ROBUST}[name])
    kind, inner = getattr(flower, name), flower.FedAvg(**sampling)
    if "Adaptive" in name:
        return kind(inner, 0.0, clients, initial_clipping_norm=0.4, clipped_count_stddev=0.0)
    return kind(inner, 0.0, 0.4, clients)


def reads(name):
    return {"QFedAvg": "train_loss", "DifferentialPrivacyClientSideAdaptiveClipping": "norm_bit"}.get(name, "?")


def trained(message, partition):
    number = message.content["config"]["server-round"]
    draw = np.random.default_rng([number, partition])
    moved = {}
    for name, array in message.content["arrays"].items():
        value = array.numpy()
        step = 0.01 * draw.normal(size=value.shape) if value.dtype.kind == "f" else partition + 1
        moved[name] = Array(np.asarray(value + np.asarray(step).astype(value.dtype)))
    metrics = {"num-examples": 10 + partition, "train_loss": 0.5 + 1 / number, "accuracy": 0.1 * partition, "norm_bit": 1}
    content = RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message), number


def measured(message, partition):
    number = message.content["config"]["server-round"]
    metrics = {"num-examples": 5 + partition, "accuracy": 0.1 * partition, "total": 1.0 / number}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message), number


def app_of(answer, mods):
    """Return an app whose replies go through `answer(phase, partition, round, reply)`."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message, context):
        if "arrays" not in message.content:
            raise ValueError("a greeting")  # as of an app without the mod
        partition = context.node_config["partition-id"]
        reply, number = trained(message, partition)
        return answer("train", partition, number, reply)

    @app.evaluate()
    def evaluate(message, context):
        partition = context.node_config["partition-id"]
        reply, number = measured(message, partition)
        return answer("evaluate", partition, number, reply)

    return app


@dataclass(frozen=True)
class Setting:
    """Where the table is thrown: `way` is `plain` (no client has the mod), `mod` (all have) or `beside`: the reply is
    changed after the mod, so that arrays come beside the mod's answer."""

    name: str = "FedAvg"
    clients: int = 4
    odd: int = 0
    way: str = "plain"
    phase: str = "train"

    def rows(self):
        table = hostile.TABLE if self.phase == "train" else hostile.EVALUATIONS
        return [row for row in table if not row.whole or self.way == "plain"]

    def out(self, row):
        return row.meant is None or (self.phase == "train" and reads(self.name) in row.reads.split())


def run(place, setting, acts, **options):
    """Return what a run leaves in which the odd node's reply to round r goes through `acts[r - 1]`."""
    given = {}

    def answer(phase, partition, number, reply):
        if (phase, partition) != (setting.phase, setting.odd):
            return reply
        if setting.way == "beside":
            given[phase] = copy.deepcopy(reply)
            return reply
        return acts[number - 1](reply) or reply

    def meddle(message, context, call_next):
        config = message.content.get("config")
        odd = context.node_config["partition-id"] == setting.odd and message.metadata.message_type == setting.phase
        reply = call_next(message, context)
        if config is None or not odd or "flserve" not in reply.content or reply.content["flserve"]["status"] != "ok":
            return reply
        changed = given[setting.phase]
        changed = acts[config["server-round"] - 1](changed) or changed
        if changed.has_content():
            changed.content = RecordDict({**changed.content, "flserve": reply.content["flserve"]})
        return changed

    mods = {"plain": (), "mod": (versioned_mod,), "beside": (meddle, versioned_mod)}[setting.way]
    grid = FleetGrid(app=app_of(answer, mods), size=setting.clients)
    options.setdefault("nonfinite", "leave_out" if setting.name in PLAIN else None)
    initial = ArrayRecord({name: Array(value) for name, value in MODEL.items()})
    sampling = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0} if setting.phase == "train" else {}
    inner = strategy(setting.name, setting.clients, **sampling)
    return federate(place, grid=grid, inner=inner, rounds=len(acts), initial=initial, **options)


@pytest.fixture(autouse=True)
def _nothing_is_measured(monkeypatch):
    """The fleet of the tests notes the bytes of all that passes; some of it has none that can be told."""
    monkeypatch.setattr("tests.fleet.seen", lambda *_: None)
    monkeypatch.setattr("os.fsync", lambda _: None)  # thousands of versions that nobody wants to keep


def silent(message):
    message.__dict__.update(_content=None, _error=Error(code=2, reason="silent"))


def check(tmp_path, setting):
    """Throw all rows at a setting and compare with a run in which nobody is odd."""
    rows = setting.rows()
    found = run(tmp_path / "found", setting, [row.change for row in rows])
    took_part = [len(row.client_versions) > 0 and row.failures == 0 for row in found.rows[1:]]
    if setting.way == "mod":  # the mod refuses some of what the server would take; never the other way round
        out = [setting.out(row) or not part for row, part in zip(rows, took_part, strict=True)]
    else:
        out = [setting.out(row) for row in rows]
    acts = [silent if left_out else row.meant for row, left_out in zip(rows, out, strict=True)]
    expected = run(tmp_path / "expected", setting, acts)
    for row, left_out, one, other in zip(rows, out, found.rows[1:], expected.rows[1:], strict=True):
        assert (one.digest, one.skipped) == (other.digest, ""), row.name
        assert (one.failures > 0) == left_out, row.name
        assert all(is_plain(name) for name in one.metrics), row.name
        if left_out:
            assert one.metrics == other.metrics, row.name
    assert list(found.registry.load(found.digest)) == list(MODEL)


ENDS = [(clients, odd) for clients in (2, 4) for odd in (0, clients - 1)]
WAYS = ("plain", "mod", "beside")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_one_client_of_four_under_fedavg(tmp_path, way, phase):
    check(tmp_path, Setting(way=way, phase=phase))
