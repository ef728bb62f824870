import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from flserve_app.errors import Conflict, NotFound, StoreError
from flserve_app.store import Catalog, Database, Draft, Edge, Labels, Runs, Serving

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SERVING = Serving(
    model_id="mlp",
    arguments={"hidden": 64},
    inputs=({"name": "x", "shape": [None, 32], "dtype": "float32"},),
    outputs=({"name": "logits", "shape": [None, 10], "dtype": "float32"},),
    classes=("zero", "one"),
    preprocessing={"scale": 0.0625},
)


def digest(number: int) -> str:
    return f"{number:064x}"


def draft(number: int, **changes) -> Draft:
    plain = Draft(
        model="m",
        digest=digest(number),
        nbytes=100,
        parent=None,
        round=0,
        run=None,
        codec="lossless",
        metrics={},
        created=NOON,
        serving=None,
    )
    return replace(plain, **changes)


def edge(target: int, base: int | None = None, nbytes: int = 10, codec: str = "lossless") -> Edge:
    blob = digest(target * 1000 + (base or 0) + nbytes * 10**6)
    return Edge(
        target=digest(target), base=None if base is None else digest(base), codec=codec, blob=blob, nbytes=nbytes
    )


@pytest.fixture
def database(place):
    opened = Database.at(place / "catalog.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def catalog(database):
    return Catalog(database, holds=lambda blob: True)


def test_a_version_comes_back_as_it_went_in(database, catalog):
    Runs(database).start("run-1", "m", config={}, started=NOON)
    catalog.publish(draft(1), edge(1))
    made = catalog.publish(
        draft(2, parent=0, round=7, run="run-1", metrics={"loss": 0.25}, serving=SERVING), edge(2, 1, nbytes=33)
    )
    assert catalog.version("m", 1) == made
    assert (made.number, made.serial, made.parent, made.round, made.run, made.stored) == (1, 2, 0, 7, "run-1", 33)
    assert (made.digest, made.nbytes, made.metrics, made.created) == (digest(2), 100, {"loss": 0.25}, NOON)
    assert made.serving == SERVING
    assert made.name == "v1"


def test_numbers_count_within_a_model_and_serials_within_the_store(catalog):
    made = [catalog.publish(draft(1, model=model), edge(1)) for model in ("a", "b", "a", "b", "a")]
    assert [version.number for version in made] == [0, 0, 1, 1, 2]
    assert [version.serial for version in made] == [1, 2, 3, 4, 5]
    assert catalog.models() == ("a", "b")
    assert [version.number for version in catalog.versions("a")] == [0, 1, 2]
    assert catalog.latest("b") == made[3]


def test_a_model_without_versions_is_not_there(database, catalog):
    Runs(database).start("run-1", "m", config={}, started=NOON)
    assert catalog.models() == ()
    assert catalog.versions("m") == ()
    assert catalog.latest("m") is None
    with pytest.raises(NotFound, match="model 'm' has no version v0"):
        catalog.version("m", 0)


def test_the_same_content_again_stores_nothing(catalog):
    catalog.publish(draft(1), edge(1))
    again = catalog.publish(draft(1), None)
    raced = catalog.publish(draft(1), edge(1))
    assert (again.number, again.stored, again.digest) == (1, 0, digest(1))
    assert (raced.number, raced.stored) == (2, 0)
    assert len(catalog.edges_behind(digest(1))) == 1


@pytest.mark.parametrize(
    ("refused", "with_edge", "message"),
    [
        (draft(2, parent=5), edge(2), "no version v5 to be the parent"),
        (draft(2, run="none"), edge(2), "run 'none' is not in the store"),
        (draft(2), None, f"artifact {digest(2)} is not in the store"),
        (draft(2), edge(3), f"the payload makes {digest(3)}, expected {digest(2)}"),
        (draft(2, model="../m"), edge(2), "a model's name is 1 to 128"),
        (draft(2, metrics={"x": 1.0}, serving=Serving(model_id="m", arguments={"x": {1}})), edge(2), "not JSON"),
        (draft(2), edge(2, base=9), f"artifact {digest(9)} is not in the store"),
    ],
)
def test_a_refused_publication_leaves_nothing(catalog, refused, with_edge, message):
    first = catalog.publish(draft(1), edge(1))
    with pytest.raises(StoreError, match=message):
        catalog.publish(refused, with_edge)
    assert catalog.versions("m") == (first,)
    assert catalog.models() == ("m",)
    assert catalog.edges_behind(digest(2)) == ()
    assert catalog.publish(draft(2), edge(2)).number == 1


def test_metrics_are_added_and_replaced(catalog):
    catalog.publish(draft(1, metrics={"loss": 1.0, "accuracy": 0.5}), edge(1))
    catalog.add_metrics("m", 0, {"accuracy": 0.75, "f1": 0.5})
    assert catalog.version("m", 0).metrics == {"loss": 1.0, "accuracy": 0.75, "f1": 0.5}
    with pytest.raises(NotFound, match="no version v3"):
        catalog.add_metrics("m", 3, {})


def test_a_diverged_model_keeps_its_metrics(catalog):
    catalog.publish(draft(1, metrics={"a": math.nan, "b": math.inf, "c": -math.inf}), edge(1))
    found = catalog.version("m", 0).metrics
    assert math.isnan(found["a"])
    assert (found["b"], found["c"]) == (math.inf, -math.inf)


def test_edges_behind_follow_every_way_and_stop_at_keyframes(catalog):
    for version in (edge(1), edge(2, 1), edge(3, 2), edge(4), edge(5, 4)):
        catalog.publish(draft(int(version.target, 16)), version)
    catalog.publish(draft(3), edge(3, 5))
    behind = {(int(one.target, 16), one.base and int(one.base, 16)) for one in catalog.edges_behind(digest(3))}
    assert behind == {(1, None), (2, 1), (3, 2), (4, None), (5, 4), (3, 5)}
    assert catalog.edges_behind(digest(9)) == ()


def test_circles_of_edges_end(catalog):
    catalog.publish(draft(1), edge(1))
    catalog.publish(draft(2), edge(2, 1))
    catalog.publish(draft(1), edge(1, 2))
    assert len(catalog.edges_behind(digest(2))) == 3


def test_an_edge_is_found_by_its_ends_and_codec(catalog):
    catalog.publish(draft(1), edge(1))
    catalog.publish(draft(2), edge(2, 1, nbytes=9))
    catalog.publish(draft(2), edge(2, 1, nbytes=5))
    assert catalog.edge(digest(1), None, "lossless") == edge(1)
    assert catalog.edge(digest(2), digest(1), "lossless") == edge(2, 1, nbytes=5)
    assert catalog.edge(digest(2), None, "lossless") is None
    assert catalog.edge(digest(2), digest(1), "grid") is None


def test_times_are_kept_in_utc(catalog):
    there = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    made = catalog.publish(draft(1, created=there), edge(1))
    assert made.created == there
    assert made.created.tzinfo == UTC


def test_runs_start_once_and_finish(database):
    runs = Runs(database)
    started = runs.start("run-1", "m", config={"lr": 0.1, "list": [1, 2]}, started=NOON)
    assert (started.state, started.finished, started.config) == ("running", None, {"lr": 0.1, "list": [1, 2]})
    with pytest.raises(Conflict, match="run 'run-1' is in the store already"):
        runs.start("run-1", "m", config={}, started=NOON)
    finished = runs.finish("run-1", "failed", finished=NOON + timedelta(seconds=5))
    assert (finished.state, finished.finished) == ("failed", NOON + timedelta(seconds=5))
    runs.start("run-0", "other", config={}, started=NOON + timedelta(seconds=1))
    assert [run.run for run in runs.all()] == ["run-1", "run-0"]
    assert runs.all("m") == (finished,)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a" * 129, "a\n", "é"])
def test_names_are_plain(database, name):
    with pytest.raises(StoreError, match="1 to 128 letters"):
        Runs(database).start(name, "m", config={}, started=NOON)
    with pytest.raises(StoreError, match="1 to 128 letters"):
        Runs(database).start("run", name, config={}, started=NOON)


def test_finishing_an_unknown_run_is_not_found(database):
    with pytest.raises(NotFound, match="run 'x' is not in the store"):
        Runs(database).finish("x", "finished", finished=NOON)


def test_latest_follows_publications(database, catalog):
    for number in (1, 2):
        catalog.publish(draft(number), edge(number))
    labels = Labels(database)
    assert labels.of("m") == {"latest": 1}
    assert [(move.before, move.after) for move in labels.moves("m", "latest")] == [(None, 0), (0, 1)]
    with pytest.raises(StoreError, match="follows every publication by itself"):
        labels.move("m", "latest", 0, who="me", why="no", moved=NOON)


def test_labels_move_by_compare_and_set(database, catalog):
    labels = Labels(database)
    for number in (1, 2):
        catalog.publish(draft(number), edge(number))
    first = labels.move("m", "stable", 0, who="ann", why="first", moved=NOON, expect=None)
    with pytest.raises(Conflict, match="stands at v0, expected no version"):
        labels.move("m", "stable", 1, who="bob", why="also first", moved=NOON, expect=None)
    with pytest.raises(Conflict, match="stands at v0, expected v1"):
        labels.move("m", "stable", 1, who="bob", why="stale", moved=NOON, expect=1)
    second = labels.move("m", "stable", 1, who="bob", why="better", moved=NOON, expect=0)
    third = labels.move("m", "stable", 0, who="bob", why="back", moved=NOON)
    assert labels.of("m") == {"latest": 1, "stable": 0}
    assert labels.moves("m", "stable") == (first, second, third)
    assert (second.before, second.after, second.who, second.why) == (0, 1, "bob", "better")


def test_labels_stand_at_versions_that_are_there(database, catalog):
    labels = Labels(database)
    with pytest.raises(NotFound, match="model 'm' is not in the store"):
        labels.move("m", "stable", 0, who="me", why="", moved=NOON)
    catalog.publish(draft(1), edge(1))
    with pytest.raises(NotFound, match="no version v1"):
        labels.move("m", "stable", 1, who="me", why="", moved=NOON)
    assert labels.of("m") == {"latest": 0}


@pytest.mark.parametrize("name", ["", "v1", "12", "v007", "abcdef", "1st", "a b", "a" * 65, "é"])
def test_a_label_reads_like_nothing_else(database, catalog, name):
    catalog.publish(draft(1), edge(1))
    with pytest.raises(StoreError, match="a label is 1 to 64"):
        Labels(database).move("m", name, 0, who="me", why="", moved=NOON)
