"""One client that answers badly costs the others nothing: every row of the table, under every strategy.

What comes out is compared, round by round and bit for bit, with a run in which the same nodes are silent where their
replies are to be left out, and answer honestly where they are ordinary replies but for their form.
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

pytestmark = pytest.mark.slow

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
PRIVATE = [
    f"DifferentialPrivacy{side}Side{kind}Clipping" for side in ("Server", "Client") for kind in ("Fixed", "Adaptive")
]
CROWD = 20
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
    metrics = {
        "num-examples": 10 + partition,
        "train_loss": 0.5 + 1 / number,
        "accuracy": 0.1 * partition,
        "norm_bit": 1,
    }
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
    """Where rows are thrown.

    Attributes:
        name: The strategy.
        clients: How many there are.
        odd: Partitions of those that answer badly, each with a row of its own a round.
        way: `plain`: nobody has the mod; `mod`: all have, and apps are odd under it; `beside`: the odd change what the
            mod answered, arrays come beside its answer.
        phase: In which they do.
        every: One of so many rows.
    """

    name: str = "FedAvg"
    clients: int = CROWD
    odd: tuple[int, ...] = tuple(at for at in range(CROWD) if at % 4 != 1)
    way: str = "plain"
    phase: str = "train"
    every: int = 1

    def rounds(self):
        """Return the rows of each round, by partition."""
        table = hostile.TABLE if self.phase == "train" else hostile.EVALUATIONS
        rows = [row for row in table if not row.whole or self.way == "plain"][:: self.every]
        return [
            dict(zip(self.odd, rows[at : at + len(self.odd)], strict=False))
            for at in range(0, len(rows), len(self.odd))
        ]

    def out(self, row):
        read = self.phase == "train" and reads(self.name) in row.reads.split()
        return row.meant is None or read or (self.way == "mod" and row.mod_refuses)


def run(place, setting, acts, **options):
    """Return what a run leaves in which the reply of partition p to round r goes through `acts[r - 1][p]`."""
    given = {}

    def act(number, partition, reply):
        change = acts[number - 1].get(partition, hostile.honest)
        return change(reply) or reply

    def answer(phase, partition, number, reply):
        if phase != setting.phase:
            return reply
        if setting.way == "beside":
            given[partition] = copy.deepcopy(reply)
            return reply
        return act(number, partition, reply)

    def meddle(message, context, call_next):
        partition, config = context.node_config["partition-id"], message.content.get("config")
        odd = config is not None and partition in setting.odd and message.metadata.message_type == setting.phase
        reply = call_next(message, context)
        if not odd or reply.content["flserve"]["status"] != "ok":
            return reply
        changed = act(config["server-round"], partition, given[partition])
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
    monkeypatch.setattr("os.fsync", lambda _: None)  # hundreds of versions that nobody wants to keep


def silent(message):
    message.__dict__.update(_content=None, _error=Error(code=2, reason="silent"))


def check(tmp_path, setting):
    """Throw rows at a setting, and compare with a run in which nobody is odd."""
    rounds = setting.rounds()
    found = run(tmp_path / "found", setting, [{at: row.change for at, row in rows.items()} for rows in rounds])
    acts = [{at: silent if setting.out(row) else row.meant for at, row in rows.items()} for rows in rounds]
    expected = run(tmp_path / "expected", setting, acts)
    for rows, one, other in zip(rounds, found.rows[1:], expected.rows[1:], strict=True):
        names = [row.name for row in rows.values()]
        assert one.skipped == "", names
        assert one.failures == sum(map(setting.out, rows.values())), names
        assert one.digest == other.digest, names
        assert all(is_plain(name) for name in one.metrics), names
        if all(map(setting.out, rows.values())):
            assert one.metrics == other.metrics, names
    assert list(found.registry.load(found.digest)) == list(MODEL)


FIRST_AND_LAST = [(clients, odd) for clients in (2, 4) for odd in (0, clients - 1)]
FEW = ("FedAvg", "FedAdam", "QFedAvg", "FedMedian", "Krum", PRIVATE[0])


@pytest.mark.parametrize("way", ["plain", "mod", "beside"])
@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_many_odd_clients_at_once(tmp_path, way, phase):
    check(tmp_path, Setting(way=way, phase=phase))


@pytest.mark.parametrize("name", FEW[1:])
def test_under_strategies_of_each_kind(tmp_path, name):
    check(tmp_path, Setting(name))


def test_one_of_two_whose_name_sorts_first(tmp_path):
    """Flower's default number of clients; there is no majority, and no need of one."""
    check(tmp_path, Setting(clients=2, odd=(0,), every=4))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain", "mod", "beside"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_under_every_strategy(tmp_path, name, way):
    check(tmp_path, Setting(name, way=way))


@pytest.mark.slow
@pytest.mark.parametrize(("clients", "odd"), FIRST_AND_LAST)
@pytest.mark.parametrize("name", FEW)
def test_one_of_two_and_of_four(tmp_path, name, clients, odd):
    check(tmp_path, Setting(name, clients=clients, odd=(odd,), every=1 if name == "FedAvg" else 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FedAdam", "FedMedian", "MultiKrum", PRIVATE[1]])
def test_evaluation_under_others(tmp_path, name):
    check(tmp_path, Setting(name, phase="evaluate"))
