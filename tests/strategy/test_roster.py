"""What a client claims about itself, against what the server knows of it."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.common.constant import NOOP_FLWR_AID
from flwr.proto.node_pb2 import NodeInfo

from flserve_app.artifact import Artifact
from flserve_app.client import versioned_mod
from flserve_app.client.records import to_artifact
from flserve_app.client.wire import RECORD
from flserve_app.codec.lossy import lossy_of
from flserve_app.experiments.inprocess import InProcessGrid
from flserve_app.registry import Registry
from flserve_app.store import Holder
from flserve_app.strategy import VersionedStrategy, roster
from flserve_app.strategy.grid import VersionedGrid
from flserve_app.strategy.ledger import Ledger
from flserve_app.strategy.publisher import Publisher
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate


def lines(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def saying(number, when=lambda record: True, **said):
    """Return a mod by which one partition's answers say something else; values may be functions of the record."""

    def mod(message, context, call_next):
        reply = call_next(message, context)
        record = reply.content.get(RECORD) if reply.has_content() else None
        if context.node_config["partition-id"] == number and record is not None and when(record):
            values = {key: value(record) if callable(value) else value for key, value in said.items()}
            reply.content[RECORD] = ConfigRecord({**record, **values})
        return reply

    return mod


def app_of(*mods):
    return numpy_app(mods=(*mods, versioned_mod))


def fleet_of(run):
    return {run.grid.number(node_id): client for node_id, client in run.strategy._grid.fleet.clients.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return federate(tmp_path_factory.mktemp("undisturbed") / "s")


@pytest.mark.parametrize("identity", ["-x", "", "a b", "x" * 129, "\x1b[2J", "\u202e", 7, b"a", True])
def test_an_identity_that_is_none_is_that_clients_failure_alone(tmp_path, caplog, identity):
    run = federate(tmp_path / "s", grid=FleetGrid(app=app_of(saying(2, identity=identity)), size=4), inner=fedavg(4, 4))
    assert run.rows[-1].version == 3
    assert [client.identity for number, client in sorted(fleet_of(run).items()) if number != 2] == [
        "partition-0",
        "partition-1",
        "partition-3",
    ]
    assert "\x1b" not in caplog.text
    assert {holder.identity for holder in run.registry.clients("model")} == {
        "partition-0",
        "partition-1",
        "partition-3",
    }


@pytest.mark.parametrize("number", [0, 3])
def test_an_identity_that_changes_with_every_answer_is_the_first(tmp_path, caplog, undisturbed, number):
    count = iter(range(10**6))
    chameleon = saying(number, lambda record: record["status"] == "ok", identity=lambda record: f"x{next(count)}")
    run = federate(tmp_path / "s", grid=FleetGrid(app=app_of(chameleon), size=4))
    assert run.digest == undisturbed.digest
    assert [holder.identity for holder in run.registry.clients("model")] == [f"partition-{at}" for at in range(4)]
    assert len(lines(caplog, f"it said it is partition-{number} before: it is partition-{number}")) == 1


def test_anothers_identity_leaves_the_other_what_it_was(tmp_path, caplog, undisturbed):
    grid = FleetGrid(app=app_of(saying(3, identity="partition-0")), size=4)
    run = federate(tmp_path / "s", grid=grid)
    names = {number: client.identity for number, client in fleet_of(run).items()}
    (said,) = lines(caplog, "says it is partition-0")
    second = int(said.split()[2])
    assert names[grid.number(second)] == f"node-{second}"
    assert sorted(names.values()) == sorted(["partition-0", "partition-1", "partition-2", f"node-{second}"])
    assert run.rows[-1].clients == 4


def test_a_run_that_is_resumed_knows_its_clients_by_their_identities(tmp_path):
    config = {"cache-dir": str(tmp_path / "cache")}
    options = {"node_config": config, "app": numpy_app(), "size": 3}
    federate(tmp_path / "s", grid=FleetGrid(**options), inner=fedavg(3, 3, 3), rounds=2).registry.close()
    again = federate(tmp_path / "s", grid=FleetGrid(**options, first_id=77), inner=fedavg(3), rounds=3, resume=True)
    assert again.rows[1].plans == {"none": 3}


def test_a_node_that_restarts_has_its_identity_again(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(), size=4, node_config={"cache-dir": str(tmp_path / "cache")})
    grid.hidden.add(grid.node_id(3))

    def restart(row):
        if row.round == 1:
            grid.contexts[grid.node_id(3)].node_config["partition-id"] = 1
            grid.hidden ^= {grid.node_id(1), grid.node_id(3)}

    run = federate(tmp_path / "s", grid=grid, inner=fedavg(3), num_clients=3, on_row=restart, rounds=3)
    assert [row.clients for row in run.rows] == [0, 3, 3, 3]
    assert [row.plans for row in run.rows] == [{}, {"full": 3}, {"delta": 3}, {"delta": 3}]
    assert run.strategy._grid.fleet.get(grid.node_id(3)).identity == "partition-1"
    assert not lines(caplog, "says it is")


def test_one_whose_old_node_is_still_listed_waits_for_its_identity_under_another_name(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(), size=4, node_config={"cache-dir": str(tmp_path / "cache")})
    grid.hidden.add(grid.node_id(3))
    grid.contexts[grid.node_id(3)].node_config["partition-id"] = 1

    def change(row):
        if row.round == 1:
            grid.hidden.clear()
        elif row.round == 3:
            grid.hidden.add(grid.node_id(1))

    run = federate(tmp_path / "s", grid=grid, inner=fedavg(3), num_clients=3, on_row=change, rounds=5)
    assert [row.clients for row in run.rows] == [0, 3, 4, 4, 3, 3]
    assert run.rows[-1].plans == {"delta": 3}
    assert run.strategy._grid.fleet.get(grid.node_id(3)).identity == "partition-1"
    assert len(lines(caplog, f"says it is partition-1, which node {grid.node_id(1)} said first")) == 1
    assert lines(caplog, "from now on") == [f"flserve: node-{grid.node_id(3)} is partition-1 from now on"]


@dataclass
class Registered(FleetGrid):
    """A fleet whose nodes have keys, which the operator registered or the SuperNodes made up."""

    keys: dict = field(default_factory=dict)
    owner: str = "an account"

    def get_nodes(self):
        return [
            NodeInfo(node_id=at, public_key=self.keys.get(at, b""), owner_aid=self.owner) for at in self.get_node_ids()
        ]


@pytest.mark.parametrize(
    ("owner", "same", "identity"),
    [("an account", True, True), ("an account", False, False), (NOOP_FLWR_AID, False, True)],
)
def test_where_the_operator_registered_keys_an_identity_belongs_to_one(publisher, owner, same, identity):
    grid = Registered(app=numpy_app(), size=2)
    first, second = grid.node_id(0), grid.node_id(1)
    grid.contexts[second].node_config["partition-id"] = 0
    grid.keys, grid.owner = {first: b"k1", second: b"k1" if same else b"k2"}, owner
    grid.hidden = {second}
    versioned = VersionedGrid(grid, publisher, Ledger(), "lossless")
    assert list(versioned.get_node_ids()) == [first]
    grid.hidden = {first}
    assert list(versioned.get_node_ids()) == [second]
    assert versioned.fleet.get(second).identity == ("partition-0" if identity else f"node-{second}")


def test_a_grid_that_cannot_say_who_its_nodes_are_is_fine(publisher):
    class Silent(FleetGrid):
        def get_nodes(self):
            raise NotImplementedError

    grid = Silent(app=numpy_app(), size=2)
    assert [grid.number(at) for at in VersionedGrid(grid, publisher, Ledger(), "full").get_node_ids()] == [0, 1]


@pytest.fixture
def publisher(tmp_path):
    with Registry.open(tmp_path / "of") as registry:
        made = Publisher(registry, "m", "lossless")
        made.publish(to_artifact(small_arrays()), 0)
        yield made


def holding(*digests):
    return lambda record: [bytes.fromhex(digest) for digest in digests][:64]


def test_another_models_version_is_no_base_whoever_says_to_hold_it(tmp_path):
    secret = Artifact({name: array + array.dtype.type(1) for name, array in to_artifact(small_arrays(5)).items()})
    with Registry.open(tmp_path / "s") as registry:
        registry.publish("secret", secret, round=0, codec="lossless")
        registry.saw_clients("model", [Holder(identity="partition-2", digest=secret.digest, number=0, round=1)])
        grid = FleetGrid(
            app=app_of(saying(1, held=holding(secret.digest)), saying(2, held=holding(secret.digest))), size=4
        )
        run = federate(registry, grid=grid, rounds=2)
        assert run.rows[1].plans == {"full": 4}
        assert run.rows[2].plans == {"delta": 2, "full": 2}
        rows = {holder.identity: holder.digest for holder in registry.clients("model")}
        assert rows.pop("partition-2") == secret.digest, "a row of an old store, which nothing renewed"
        assert set(rows.values()) <= {version.digest for version in registry.versions("model")}


def test_a_version_that_was_never_delivered_to_a_client_is_no_base(tmp_path):
    with Registry.open(tmp_path / "s") as registry:
        others = saying(1, held=lambda record: [bytes.fromhex(v.digest) for v in registry.versions("model")][-64:])
        grid = FleetGrid(app=app_of(others), size=4)
        options = {"inner": fedavg(4), "grid": grid, "rounds": 4}
        run = federate(registry, **options)
        held = fleet_of(run)
        versions = registry.versions("model")
        assert run.total("failures") == 0
        given = {versions[number].digest for number in range(4)}
        assert set(held[1].held) <= given, "v4 was published after the last delivery"


def test_a_client_that_says_to_hold_the_target_is_sent_nothing_and_then_all_of_it(tmp_path):
    """It learns nothing by it; whoever holds it from elsewhere is spared the download."""
    with Registry.open(tmp_path / "s") as registry:
        target = saying(1, held=lambda record: [bytes.fromhex(v.digest) for v in registry.versions("model")][-1:])
        run = federate(registry, grid=FleetGrid(app=app_of(target), size=2), rounds=2)
        assert run.rows[-1].clients == 2
        assert run.total("failures") == 0


@pytest.mark.parametrize("number", [0, 3])
def test_sixty_four_digests_in_every_answer_change_nothing(tmp_path, undisturbed, number):
    draw = np.random.default_rng(0)
    many = saying(number, held=lambda record: [*record.get("held", []), *(draw.bytes(32) for _ in range(63))][:64])
    run = federate(tmp_path / "s", grid=FleetGrid(app=app_of(many), size=4))
    assert (run.digest, run.plans()) == (undisturbed.digest, undisturbed.plans())


@pytest.mark.parametrize("said", [0, -3, 1, 3, 1 << 20, 1 << 40, -(1 << 63)])
@pytest.mark.parametrize("expected", [4, None])
def test_no_single_client_says_how_many_there_are(tmp_path, monkeypatch, said, expected):
    monkeypatch.setattr("flserve_app.strategy.nodes.SETTLE_SECONDS", 0.1)
    grid = FleetGrid(app=app_of(saying(3, partitions=said)), size=4)
    for context in grid.contexts.values():
        del context.node_config["num-partitions"]
    run = federate(tmp_path / "s", grid=grid, num_clients=expected, wait_seconds=5.0, rounds=1)
    assert run.rows[-1].clients == 4


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -float("inf"), -1e9, 1 << 62, 1e300])
def test_no_client_took_longer_than_the_round(tmp_path, seconds):
    keys = {"fetch_s": seconds, "train_s": seconds, "encode_s": seconds}
    run = federate(tmp_path / "s", grid=FleetGrid(app=app_of(saying(1, **keys)), size=2), rounds=2)
    for row in run.rows:
        for took in (row.fetch_seconds, row.train_seconds, row.update_seconds):
            assert 0 <= took <= row.seconds


@pytest.mark.parametrize("takes", [["chain", "recipe", "grid", "topk"], ["recipe"], ["nothing-known"], ["x"] * 64])
def test_a_client_that_cannot_take_what_it_says_it_can_costs_itself(tmp_path, takes):
    lie = saying(1, lambda record: record["status"] == "hello", takes=takes)
    grid = FleetGrid(app=app_of(lie), size=3)
    run = federate(tmp_path / "s", grid=grid, codec=lossy_of("topk", {"share": 0.1, "least": 0}), rounds=3)
    assert run.rows[-1].version == 3
    assert run.rows[-1].clients >= 2


def test_what_a_client_is_told_of_its_updates_is_not_told_to_who_says_to_be_it(tmp_path):
    """An impostor that answers under the other's name would have it taken for told, and the other carry it twice."""
    rounded = lossy_of("topk", {"share": 0.2, "least": 0})
    told = []

    def note(message):
        record = message.content.config_records.get(RECORD, {})
        if record.get("settled"):
            told.append((message.metadata.dst_node_id, tuple(record["settled"])))
        return message

    def run(place, *mods):
        told.clear()
        grid = FleetGrid(app=app_of(*mods), size=3, down=[note])
        return federate(tmp_path / place, grid=grid, uplink=rounded, rounds=4), list(told)

    _, honest = run("a")
    done, seen = run("b", saying(2, lambda record: record["status"] == "ok", identity="partition-0"))
    assert seen == honest
    assert done.rows[-1].clients == 3


@dataclass
class Mute(FleetGrid):
    """A fleet of which some nodes never answer anything."""

    mute: frozenset = frozenset()

    def _serve(self, message):
        return None if self.number(message.metadata.dst_node_id) in self.mute else super()._serve(message)


def test_a_silent_newcomer_costs_the_rounds_nothing(tmp_path, monkeypatch, undisturbed, caplog):
    monkeypatch.setattr(roster, "GRACE_SECONDS", 300.0)
    grid = Mute(app=numpy_app(), size=5, mute=frozenset({4}))
    grid.hidden.add(grid.node_id(4))
    run = federate(
        tmp_path / "s", grid=grid, inner=fedavg(4), num_clients=4, on_row=lambda row: grid.hidden.clear(), rounds=3
    )
    assert [row.clients for row in run.rows] == [0, 4, 4, 4]
    assert (run.digest, run.total("failures")) == (undisturbed.digest, 0)
    assert all(row.seconds < 60 for row in run.rows)


def test_the_newcomer_takes_part_when_it_answers(tmp_path):
    grid = Mute(app=numpy_app(), size=3, mute=frozenset({2}))
    grid.hidden.add(grid.node_id(2))

    def go(row):
        grid.hidden.clear()
        if row.round == 2:
            grid.mute = frozenset()

    run = federate(tmp_path / "s", grid=grid, inner=fedavg(2), num_clients=2, on_row=go, rounds=6)
    assert [row.clients for row in run.rows][:3] == [0, 2, 2]
    assert run.rows[-1].clients == 3
    greeted = [item for item in grid.log if item.node_id == grid.node_id(2) and item.way == "down"]
    assert len(greeted) > 1


def test_a_greeting_is_answered_whenever_it_may_be(publisher):
    grid = FleetGrid(app=numpy_app(), size=3)
    grid.delay = lambda message: 1 if message.metadata.dst_node_id == grid.node_id(1) else 0
    versioned = VersionedGrid(grid, publisher, Ledger(), "lossless")
    assert [grid.number(at) for at in versioned.get_node_ids()] == [0, 2]
    grid._exchanges += 1
    assert [grid.number(at) for at in versioned.get_node_ids()] == [0, 1, 2]
    assert sum(item.way == "down" for item in grid.log) == 3


def test_a_node_that_never_answers_is_greeted_more_and_more_seldom(publisher):
    grid = Mute(app=numpy_app(), size=2, mute=frozenset({1}))
    greeted = []
    grid.down.append(lambda message: greeted.append(message) or message)
    pushed = []
    original = grid.push_messages
    grid.push_messages = lambda messages: pushed.extend(m.metadata.dst_node_id for m in messages) or original(messages)
    versioned = VersionedGrid(grid, publisher, Ledger(), "lossless")
    for number in range(100):
        versioned.enter(number)
        for _ in range(3):
            assert [grid.number(at) for at in versioned.get_node_ids()] == [0]
            versioned.enter(number)
    assert pushed.count(grid.node_id(0)) == 1
    assert 5 < pushed.count(grid.node_id(1)) < 15


def test_one_that_is_silent_from_the_start_is_waited_for_once_and_not_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(roster, "GRACE_SECONDS", 0.3)

    def build(silent):
        app = numpy_app(mods=(mute(silent), versioned_mod))
        return InProcessGrid(app, 3)

    def mute(silent):
        return lambda message, context, call_next: (
            None if context.node_config["partition-id"] in silent else call_next(message, context)
        )

    rows = []
    with build({2}) as grid:
        strategy = VersionedStrategy(fedavg(2), store=tmp_path / "s", num_clients=3, observer=rows.append)
        strategy.start(grid, small_arrays(), num_rounds=3, timeout=30)
        strategy.registry.close()
    assert [row.clients for row in rows] == [0, 2, 2, 2]
    assert rows[0].seconds < 15
    assert all(row.seconds < 15 for row in rows)


def test_who_starts_slowly_takes_part_in_the_first_round(tmp_path, monkeypatch):
    """Who is in it, and so the digest, must not depend on how long one node takes to load its app."""
    monkeypatch.setattr(roster, "START_SECONDS", 10.0)
    digests = set()
    for slow in (None, 0, 3):
        late = {slow}

        def mod(message, context, call_next, late=late):
            if context.node_config["partition-id"] in late:
                late.clear()
                time.sleep(0.6)
            return call_next(message, context)

        rows = []
        with InProcessGrid(numpy_app(mods=(mod, versioned_mod)), 4) as grid:
            store = tmp_path / f"{slow}"
            strategy = VersionedStrategy(fedavg(2), store=store, num_clients=4, observer=rows.append)
            strategy.start(grid, small_arrays(), num_rounds=1, timeout=30)
            digests.add(strategy.version.digest)
            strategy.registry.close()
        assert rows[1].clients == 4
        assert "plain" not in rows[1].plans
    assert len(digests) == 1
