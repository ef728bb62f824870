"""Whatever goes wrong on the way is put right within the round, and leaves no trace in the model."""

import copy
import shutil

import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flserve_app.client.records import to_artifact
from flserve_app.client.wire import PAYLOAD, PAYLOAD_STYPE, RECORD, payload_array
from flserve_app.codec import encode
from flserve_app.strategy.grid import MAX_TRIES, VersionedGrid
from flserve_app.strategy.ledger import Ledger
from tests.apps import numpy_app, small_arrays
from tests.fleet import FleetGrid
from tests.strategy.runs import fedavg, federate

pytestmark = pytest.mark.slow

MODEL_BYTES = 1 << 20  # what a client keeps in its state; larger models go to the cache directory


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return federate(tmp_path_factory.mktemp("undisturbed") / "s")


def recovered(run, undisturbed, *, resends):
    """Check that a disturbed run ended as the undisturbed one, with every client in every round."""
    assert [row.digest for row in run.rows] == [row.digest for row in undisturbed.rows]
    assert [row.clients for row in run.rows[1:]] == [run.grid.size] * (len(run.rows) - 1)
    assert run.total("failures") == 0
    assert run.plans().get("resend", 0) == resends


def test_a_client_that_lost_its_state_gets_the_full_model_within_the_round(tmp_path, undisturbed):
    grid = FleetGrid(app=numpy_app(), size=4)
    run = federate(tmp_path / "s", grid=grid, on_row=lambda row: row.round == 1 and grid.forget(2))
    recovered(run, undisturbed, resends=1)
    assert run.rows[2].plans == {"delta": 4, "resend": 1}


def test_a_cache_directory_that_was_deleted(tmp_path, undisturbed):
    grid = FleetGrid(app=numpy_app(), size=4, node_config={"cache-dir": str(tmp_path / "cache")})
    run = federate(tmp_path / "s", grid=grid, on_row=lambda row: row.round == 2 and shutil.rmtree(tmp_path / "cache"))
    recovered(run, undisturbed, resends=4)


def test_a_blob_that_was_damaged_on_disk(tmp_path, undisturbed):
    def damage(row):
        if row.round == 2:
            (blob,) = (tmp_path / "cache").rglob("payload")
            flip(blob)

    grid = FleetGrid(app=numpy_app(), size=4, node_config={"cache-dir": str(tmp_path / "cache")})
    run = federate(tmp_path / "s", grid=grid, on_row=damage)
    recovered(run, undisturbed, resends=4)


def test_a_damaged_blob_is_replaced_even_for_the_same_version(tmp_path):
    """A client trains on what it evaluated: damaged in between, fetched once, then held again."""
    cache, damaged = tmp_path / "cache", []

    def damage(message):
        held = message.content[RECORD]["action"] == "deliver" and PAYLOAD not in message.content
        if held and not damaged:
            (blob,) = cache.rglob("payload")
            flip(blob)
            damaged.append(blob)
        return message

    grid = FleetGrid(app=numpy_app(), size=1, node_config={"cache-dir": str(cache)}, down=[damage])
    run = federate(tmp_path / "s", grid=grid, inner=fedavg(1, 1, 1), rounds=3)
    assert run.total("failures") == 0
    assert run.plans()["resend"] == 1


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def spoil(times, way):
    """Return a fault that flips a byte of the first payloads that go by."""
    left = [times]

    def fault(message):
        carried = message.content.get(PAYLOAD) if message.has_content() else None
        if carried is None or not left[0]:
            return message
        left[0] -= 1
        data = bytearray(carried["payload"].data)
        data[len(data) // 3] ^= 0x10
        spoiled = Array("uint8", (len(data),), PAYLOAD_STYPE, bytes(data))
        message.content[PAYLOAD] = ArrayRecord({"payload": spoiled})
        return message

    return {way: [fault]}


@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("times", [1, 5])
def test_a_payload_damaged_in_flight_is_sent_again(tmp_path, undisturbed, way, times):
    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=4, **spoil(times, way)))
    recovered(run, undisturbed, resends=times)


@pytest.mark.parametrize("way", ["down", "up"])
def test_after_some_tries_a_client_is_given_up_with_one_line(tmp_path, caplog, way):
    grid = FleetGrid(app=numpy_app(), size=3)

    def only_two(fault):
        def spoiled(message):
            mine = grid.node_id(2) in (message.metadata.dst_node_id, message.metadata.src_node_id)
            return fault(message) if mine else message

        return spoiled

    faults = getattr(grid, way)
    faults.append(only_two(spoil(1000, way)[way][0]))
    run = federate(tmp_path / "s", grid=grid, rounds=2)
    assert [row.clients for row in run.rows] == [0, 2, 2]
    assert run.total("failures") == 2
    given_up = [record.getMessage() for record in caplog.records if "given up" in record.getMessage()]
    assert len(given_up) == 2
    assert given_up[0].startswith(f"flserve: partition-2 is given up after {MAX_TRIES} tries: ")
    assert "\n" not in given_up[0]
    to_two = [item for item in grid.log if (item.node_id, item.way) == (grid.node_id(2), "down")]
    assert len(to_two) == 1 + 2 * MAX_TRIES
    if way == "down":
        assert 2 not in [int(version) for row in run.rows for version in row.client_versions.values()][2:]


def test_a_client_that_never_got_a_version_is_not_counted_as_working_with_it(tmp_path):
    grid = FleetGrid(app=numpy_app(), size=1, **spoil(1000, "down"))
    run = federate(tmp_path / "s", grid=grid, rounds=1)
    assert run.rows[-1].client_versions == {}


def test_a_crash_is_told_apart_from_a_refusal(tmp_path, caplog):
    def crash(message, context, server_round):
        if (server_round, context.node_config["partition-id"]) == (2, 1):
            raise RuntimeError("boom\nand more")

    grid = FleetGrid(app=numpy_app(on_train=crash), size=4)
    run = federate(tmp_path / "s", grid=grid)
    assert [row.clients for row in run.rows] == [0, 4, 3, 4]
    assert [row.failures for row in run.rows] == [0, 0, 1, 0]
    assert "resend" not in run.plans()
    lines = [record.getMessage() for record in caplog.records if "failed:" in record.getMessage()]
    assert len(lines) == 1
    assert "\n" not in lines[0]


def test_a_crash_after_the_fetch_costs_at_most_a_resend(tmp_path):
    """The context of a crashed handler is lost, the cache directory's new version is not."""

    def crash(message, context, server_round):
        if server_round == 2:
            raise RuntimeError("boom")

    config = {"cache-dir": str(tmp_path / "cache")}
    grid = FleetGrid(app=lambda n: numpy_app(on_train=crash if n == 1 else None), size=3, node_config=config)
    run = federate(tmp_path / "s", grid=grid)
    assert [row.clients for row in run.rows] == [0, 3, 2, 3]


def test_a_handler_that_returns_something_else_is_an_error_with_a_reason(tmp_path, caplog):
    def answer(message, context, server_round):
        return "done" if context.node_config["partition-id"] == 0 else None

    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(on_train=answer), size=3), rounds=1)
    assert run.rows[1].clients == 2
    assert "the app's handler returned a str, expected a Message" in caplog.text


def test_a_client_that_says_nothing_is_counted_and_logged_once(tmp_path, caplog):
    grid = FleetGrid(app=numpy_app(), size=3)

    def silent(message):
        asleep = message.metadata.src_node_id == grid.node_id(1) and len(grid.log) > 6
        return None if asleep else message

    grid.up.append(silent)
    run = federate(tmp_path / "s", grid=grid, rounds=2)
    assert [row.clients for row in run.rows] == [0, 2, 2]
    assert [row.failures for row in run.rows] == [0, 1, 1]
    assert caplog.text.count("partition-1 did not answer") == 2


def test_a_node_that_does_not_answer_the_greeting_is_served_all_the_same(tmp_path, undisturbed, caplog):
    def lost(message):
        hello = message.content.config_records.get(RECORD, {}).get("action") == "hello"
        return None if hello and message.metadata.dst_node_id == grid.node_id(3) else message

    grid = FleetGrid(app=numpy_app(), size=4, down=[lost])
    run = federate(tmp_path / "s", grid=grid)
    assert "1 of 4 nodes did not answer the greeting" in caplog.text
    assert run.total("failures") == 0
    assert [row.clients for row in run.rows[1:]] == [4, 4, 4]
    assert run.rows[-1].plans == {"delta": 3, "plain": 1}


def test_a_stranger_that_missed_the_greeting_is_greeted_again(tmp_path, caplog):
    def lost(message):
        hellos = sum(item.way == "down" and item.node_id == grid.node_id(0) for item in grid.log)
        return None if message.metadata.dst_node_id == grid.node_id(0) and hellos == 1 else message

    apps = [numpy_app(mods=()), numpy_app()]
    grid = FleetGrid(app=lambda number: apps[number], size=2, down=[lost])
    run = federate(tmp_path / "s", grid=grid, rounds=3)
    assert [row.clients for row in run.rows] == [0, 2, 2, 2]
    assert run.rows[2].plans == {"delta": 1, "plain": 1}


def test_a_node_that_joins_late_is_greeted_and_gets_the_full_model(tmp_path):
    grid = FleetGrid(app=numpy_app(), size=4)
    grid.hidden.add(grid.node_id(3))
    run = federate(
        tmp_path / "s",
        grid=grid,
        inner=fedavg(3),
        num_clients=None,
        wait_seconds=0.3,
        on_row=lambda row: row.round == 1 and grid.hidden.clear(),
    )
    assert [row.clients for row in run.rows] == [0, 3, 4, 4]
    assert run.rows[2].plans == {"delta": 3, "full": 1}


def test_an_update_that_names_another_base_is_asked_for_again(tmp_path, undisturbed):
    spoiled = []

    def rename(message):
        record = message.content.config_records.get(RECORD, {})
        if record.get("base") and not spoiled:
            spoiled.append(message)
            record["base"] = bytes(32)
        return message

    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=4, up=[rename]))
    recovered(run, undisturbed, resends=1)


def test_an_update_relative_to_an_older_version_is_never_averaged_as_if_current(tmp_path, undisturbed):
    """It is whole and verified, and its base is in the store: only it is not the version that was delivered."""
    spoiled, old = [], to_artifact(small_arrays())

    def answer_late(message):
        record = message.content.config_records.get(RECORD, {})
        if record.get("base") not in (None, bytes.fromhex(old.digest)) and not spoiled:
            spoiled.append(message)
            record["base"] = bytes.fromhex(old.digest)
            payload = encode(to_artifact(small_arrays(seed=4)), old)
            message.content[PAYLOAD] = ArrayRecord({"payload": payload_array(payload)})
        return message

    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=4, up=[answer_late]))
    recovered(run, undisturbed, resends=1)
    assert len(spoiled) == 1


def test_an_answer_of_another_protocol_is_asked_for_again_and_given_up(tmp_path, caplog):
    def newer(message):
        if PAYLOAD in message.content:
            message.content[RECORD]["protocol"] = 2
        return message

    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=2, up=[newer]), rounds=1)
    assert run.rows[1].clients == 0
    assert caplog.text.count("given up after 3 tries: delivery protocol is 2, expected 1") == 2


def test_a_greeting_answered_in_another_protocol_means_plain_arrays(tmp_path, caplog):
    def newer(message):
        if RECORD in message.content:
            message.content[RECORD]["protocol"] = 2
        return message

    run = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=2, up=[newer]), rounds=1)
    assert run.plans() == {"plain": 2}
    assert run.rows[1].clients == 2
    assert "gets plain arrays: delivery protocol is 2, expected 1" in caplog.text


def test_a_reply_to_nothing_is_left_out(tmp_path, undisturbed, caplog):
    class Haunted(FleetGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            ghost = copy.deepcopy(replies[0])
            ghost.metadata.__dict__["_src_node_id"] = 1
            ghost.metadata.__dict__["_reply_to_message_id"] = "nobody"
            return [*replies, ghost] if PAYLOAD in ghost.content else replies

    run = federate(tmp_path / "s", grid=Haunted(app=numpy_app(), size=4))
    recovered(run, undisturbed, resends=0)
    assert "a reply of node 1 answers nothing that was sent" in caplog.text


def test_a_base_that_the_store_lost_is_no_base(tmp_path, undisturbed):
    """A client holds a version of an earlier run whose stored bytes are damaged: it gets the full model."""
    config = {"cache-dir": str(tmp_path / "cache")}
    first = federate(tmp_path / "s", grid=FleetGrid(app=numpy_app(), size=4, node_config=config), rounds=1)
    first.registry.close()
    for blob in (tmp_path / "s" / "blobs").rglob("*"):
        if blob.is_file():
            spare = blob.read_bytes()
            blob.chmod(0o600)
            blob.write_bytes(spare[:-1] + bytes([spare[-1] ^ 1]))
    grid = FleetGrid(app=numpy_app(), size=4, node_config=config)
    run = federate(tmp_path / "s", grid=grid, model_name="other", initial=small_arrays(3), rounds=1)
    assert run.rows[1].clients == 4
    assert run.rows[1].plans == {"full": 4}


def test_resends_share_the_time_of_the_phase(tmp_path):
    grid = FleetGrid(app=numpy_app(), size=2, **spoil(2, "down"))
    federate(tmp_path / "s", grid=grid, rounds=1, timeout=30.0)
    first, second, *_ = grid.timeouts
    assert 0 < second < first <= 30.0


def test_a_large_model_is_kept_on_disk_and_recovered_too(tmp_path):
    draw = small_arrays()
    wide = ArrayRecord({**draw, "wide": Array(_noise(MODEL_BYTES // 4 + 1))})
    whole = federate(tmp_path / "a", initial=wide, clients=2, rounds=2)
    grid = FleetGrid(app=numpy_app(), size=2)
    run = federate(
        tmp_path / "b", grid=grid, initial=wide, rounds=2, on_row=lambda row: row.round == 1 and grid.forget(0)
    )
    recovered(run, whole, resends=1)
    assert all(
        "flserve.arrays" not in context.state or not context.state["flserve.arrays"]
        for context in grid.contexts.values()
    )


def _noise(size):
    import numpy as np

    return np.random.default_rng(0).normal(size=size).astype(np.float32)


def test_messages_of_the_strategy_are_never_shared(tmp_path):
    """Flower gives all messages one content; a delivery for one client must not reach another."""
    grid = FleetGrid(app=numpy_app(), size=4)
    run = federate(tmp_path / "s", grid=grid, on_row=lambda row: row.round == 1 and grid.forget(1))
    kinds = [item.payload is None for item in grid.log if item.way == "down" and item.kind == "train"]
    assert kinds.count(True) == 4
    assert run.total("failures") == 0


def test_a_query_goes_as_it_is(tmp_path):
    run = federate(tmp_path / "s", clients=2, rounds=1)
    app = numpy_app()

    @app.query("echo")
    def echo(message, context):
        return Message(RecordDict({"arrays": message.content["arrays"]}), reply_to=message)

    run.grid.app = app
    message = Message(
        RecordDict({"arrays": small_arrays()}), dst_node_id=run.grid.node_id(0), message_type="query.echo"
    )
    (reply,) = VersionedGrid(run.grid, run.strategy._publisher, Ledger(), "full").send_and_receive([message])
    assert reply.content["arrays"].object_id == small_arrays().object_id
    assert [item.kind for item in run.grid.log[-2:]] == ["query.echo"] * 2
    assert [item.payload for item in run.grid.log[-2:]] == [None, None]
