"""Servers that do not trust each other, on one machine: none is told, given or made to lose what is another's."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flserve_app.artifact import Artifact
from flserve_app.client import versioned_mod
from flserve_app.client.layout import layout_of
from flserve_app.client.private import Private
from flserve_app.client.wire import Delivery, payload_array, put_delivery, take_answer
from flserve_app.codec import decode, encode
from tests.client.contexts import context

DRAW = np.random.default_rng(0)
A = Artifact({"w": DRAW.normal(size=(50, 20)).astype("f4"), "head": DRAW.normal(size=(20, 3)).astype("f4")})
LAYOUT = layout_of(A, ["head"], "11" * 16)
SHARED, OWN = LAYOUT.parted(A)
OTHER = Artifact({"w": DRAW.normal(size=(50, 20)).astype("f4")})
FEDERATION = {"hospital": "aa" * 32, "lab": "bb" * 32}


def full(artifact):
    return payload_array(encode(artifact, None, "full"))


def start(layout, values):
    return payload_array(b"".join(Private(layout=layout, values=values).to_bytes()))


class Node:
    """A client of a machine whose cache directory outlives runs, as each server's messages find it."""

    def __init__(self, path, partition=0):
        self.config = {"cache-dir": str(path), "partition-id": partition}
        self.states = {}
        self.seen = {}
        self.moves = 0.0

    def train(self, message, _):
        self.seen = {name: array.numpy() for name, array in message.content["arrays"].items()}
        moved = {name: Array(value + np.float32(self.moves) * value) for name, value in self.seen.items()}
        arrays, metrics = ArrayRecord(moved), MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    def told(self, run=1, **fields):
        content = RecordDict()
        put_delivery(content, Delivery(**{"action": "deliver", "model": "model", "version": 0, **fields}))
        message = Message(content, dst_node_id=1, message_type="train")
        state = self.states.setdefault(run, RecordDict())
        where = context(run_id=run, state=state, **self.config)
        return take_answer(RecordDict(dict(versioned_mod(message, where, self.train).content)))


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    delivery = {"target": SHARED.digest, "payloads": (full(SHARED),), "private": LAYOUT.key}
    said = made.told(start=start(LAYOUT, OWN), federation=FEDERATION["hospital"], **delivery)
    assert said.status == "ok"
    return made


@pytest.mark.parametrize("federation", ["", FEDERATION["lab"]])
@pytest.mark.parametrize("model", ["model", "other"])
@pytest.mark.parametrize("run", [1, 2])
def test_another_server_is_told_nothing_and_given_nothing(node, tmp_path, federation, model, run):
    lab = {"run": run, "federation": federation, "model": model}
    hello = node.told(action="hello", **lab)
    assert (hello.held, hello.private) == ((), "")
    for other in (node, Node(tmp_path, partition=7)):
        got = other.told(target=SHARED.digest, uplink="full", **lab)
        assert (got.status, got.payload, got.held) == ("nack", None, ())


@pytest.mark.parametrize("action", ["hello", "deliver"])
@pytest.mark.parametrize("federation", ["", *FEDERATION.values()])
@pytest.mark.parametrize(
    "name", ["", " ", "model ", "model\n", f"model\n{FEDERATION['hospital']}", "\x1b[2J", "m" * 5000, "model\x00"]
)
def test_a_model_without_a_plain_name_is_refused_and_told_nothing(node, name, federation, action):
    for run in (1, 2):
        said = node.told(run=run, action=action, model=name, federation=federation, target=SHARED.digest)
        assert (said.status, said.held, said.private, said.payload) == ("nack", (), "", None)
        assert "is no plain name" in said.reason


def test_what_a_client_holds_elsewhere_is_told_to_who_names_it_and_to_no_one_else(node):
    """A base, and the key of private tensors: neither can be guessed, and the server says it already."""
    lab = {"run": 2, "action": "hello", "model": "b", "federation": FEDERATION["lab"]}
    assert node.told(base=SHARED.digest, **lab).held == (SHARED.digest,)
    assert node.told(base=OTHER.digest, **lab).held == ()
    hospital = {"run": 2, "action": "hello", "federation": FEDERATION["hospital"]}
    keys = [node.told(private=key, **hospital).private for key in ("", "ab" * 32, LAYOUT.key)]
    assert keys == ["", "", LAYOUT.key]
    for other in (Node(node.config["cache-dir"], partition=7),):
        assert other.told(base=SHARED.digest, **lab).held == ()
        assert other.told(private=LAYOUT.key, **hospital).private == ""


def test_naming_a_digest_with_any_payload_gets_nobody_the_version(node, tmp_path):
    """What another client of the process verified is at hand for the same payloads only."""
    junk = bytearray(encode(OTHER, None, "full"))
    junk[7:39] = bytes.fromhex(SHARED.digest)
    same = encode(SHARED, SHARED)
    tries = [bytes(junk), b"", encode(OTHER, None, "full"), same, encode(SHARED, None, "full")[:-1]]
    for other in (node, Node(tmp_path, partition=7)):
        for payload in tries:
            got = other.told(run=2, model="b", target=SHARED.digest, payloads=(payload_array(payload),), uplink="full")
            assert (got.status, got.payload) == ("nack", None)


def test_a_base_of_another_federation_serves_who_has_it_and_no_one_else(node):
    tuned = Artifact({"w": SHARED["w"] + 1})
    moved = {"target": tuned.digest, "payloads": (payload_array(encode(tuned, SHARED)),)}
    assert node.told(run=2, model="b", uplink="full", **moved).status == "ok"
    # A payload made without it: one tensor more, the others `same`. Where it leads, its maker cannot know.
    more = Artifact({**SHARED, "extra": np.ones(3, "f4")})
    blind = bytearray(encode(more, SHARED))
    blind[7:39] = bytes(32)
    blind[-4:] = _checksum(bytes(blind[:-4]))
    said = node.told(run=2, model="c", target="00" * 32, payloads=(payload_array(bytes(blind)),))
    assert said.status == "nack"
    assert more.digest[:8] not in said.reason, "a digest of what was made of it would be the next try's target"


def _checksum(body):
    from flserve_app.codec.wire import checksum

    return checksum(body)


def test_its_own_server_goes_on_in_a_later_run(node):
    hospital = {"run": 9, "federation": FEDERATION["hospital"]}
    hello = node.told(action="hello", private=LAYOUT.key, **hospital)
    assert (hello.held, hello.private) == ((SHARED.digest,), LAYOUT.key)
    assert node.told(target=SHARED.digest, private=LAYOUT.key, **hospital).status == "ok"
    assert np.array_equal(node.seen["head"], A["head"])


def test_a_second_run_under_the_name_leaves_private_tensors_where_they_are(node, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.private")}
    model = Artifact({"w": A["w"], "head": np.zeros((20, 3), "f4")})
    fresh = layout_of(model, ["head"], "22" * 16)
    shared, values = fresh.parted(model)
    said = node.told(
        run=2, target=shared.digest, payloads=(full(shared),), private=fresh.key, start=start(fresh, values)
    )
    assert said.status == "ok"
    assert all(path.read_bytes() == content for path, content in before.items())
    resumed = {"target": SHARED.digest, "payloads": (full(SHARED),), "private": LAYOUT.key}
    assert node.told(run=3, federation=FEDERATION["hospital"], **resumed).status == "ok"
    assert np.array_equal(node.seen["head"], A["head"])


def test_private_tensors_of_releases_before_are_found(node, tmp_path):
    (path,) = tmp_path.rglob("*.private")
    path.rename(path.with_name(f"{path.name.partition('.')[0]}.private"))
    resumed = {"target": SHARED.digest, "payloads": (full(SHARED),), "private": LAYOUT.key}
    assert node.told(run=3, federation=FEDERATION["hospital"], **resumed).status == "ok"
    assert np.array_equal(node.seen["head"], A["head"])
    (found,) = tmp_path.rglob("*.private")
    assert found.name.count(".") == 2, "it is kept under its layout now"


def test_residuals_stay_with_their_federation(node):
    """What rounding left out of an update to one server does not go to another with the next."""
    settings = {"rounding": '{"kind":"topk","share":0.01,"least":0}', "feedback": '{"decay":1.0}'}
    hospital = {"federation": FEDERATION["hospital"], "target": SHARED.digest, "private": LAYOUT.key}
    node.moves = 0.5
    first = node.told(**hospital, **settings)
    aggregated = (decode(first.payload.data, SHARED).digest,)
    node.moves = 0.0
    for federation in (FEDERATION["lab"], ""):
        given = {"run": 2, "target": SHARED.digest, "payloads": (full(SHARED),), "federation": federation}
        given["settled"] = aggregated
        said = node.told(**given, **settings)
        assert decode(said.payload.data, SHARED) == SHARED
    said = node.told(**hospital, **settings, settled=aggregated)
    assert decode(said.payload.data, SHARED) != SHARED, "its own server gets what was left out"


@pytest.mark.parametrize(
    "name", ["", " m", "m\n[ROUND 99/99]", "\x1b[2Jm", "m\x9b31m", "\u202etxet", "m" * 201, "\x00"]
)
@pytest.mark.parametrize("field", ["model", "arrays"])
def test_names_that_are_not_plain_are_refused_and_not_shown(node, caplog, name, field):
    caplog.clear()
    delivery = {"target": SHARED.digest, "payloads": (full(SHARED),), "private": LAYOUT.key, field: name}
    if not name and field == "model":
        delivery["model"] = ""
    said = node.told(start=start(LAYOUT, OWN), **delivery)
    assert said.status == "nack"
    for text in (said.reason, caplog.text.replace("\n", "")):
        assert not set(text) & set("\x1b\x9b\u202e\x00\n\r")


def test_reasons_are_one_plain_line(tmp_path):
    content = RecordDict()
    put_delivery(content, replace(Delivery(action="deliver", model="m"), recipe='{"\x1b[2J\n\u202e'))
    content["flserve"] = ConfigRecord({**content["flserve"], "target": b"\x00" * 32})
    message = Message(content, dst_node_id=1, message_type="train")
    from flserve_app.client import building

    def fails(recipe):
        raise KeyError("\x1b]0;owned\x07\n")

    said = take_answer(building(fails)(message, context(**{"partition-id": 1}), lambda m, c: m).content)
    assert said.status == "nack"
    assert said.reason.isprintable()
