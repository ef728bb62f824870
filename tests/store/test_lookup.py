from datetime import UTC, datetime

import pytest
from sqlalchemy import event

from flserve_app.errors import NotFound
from flserve_app.store import Catalog, Database, Draft, Edge, Labels

NOON = datetime(2026, 1, 1, tzinfo=UTC)
DIGESTS = ["123456" + "0" * 58, "abcdef" + "0" * 58, "abcdef" + "1" * 58, "abcdef" + "0" * 58]


def publish(catalog, model, digest, number):
    draft = Draft(
        model=model,
        digest=digest,
        nbytes=number + 1,
        parent=None,
        round=number,
        run=None,
        codec="lossless",
        metrics={},
        created=NOON,
        serving=None,
    )
    blob = digest[::-1]
    return catalog.publish(draft, Edge(target=digest, base=None, codec="lossless", blob=blob, nbytes=number + 1))


@pytest.fixture
def database(place):
    opened = Database.at(place / "catalog.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def catalog(database):
    """Versions v0 to v3 of `m`, `stable` at v1, and one version of another model with a digest of its own."""
    catalog = Catalog(database, holds=lambda blob: True)
    publish(catalog, "other", "abcdef" + "2" * 58, 9)
    for number, digest in enumerate(DIGESTS):
        publish(catalog, "m", digest, number)
    Labels(database).move("m", "stable", 1, who="me", why="good", moved=NOON)
    return catalog


@pytest.fixture
def transactions(database):
    """What is asked in each transaction that began."""
    asked = []

    def execute(connection, cursor, statement, *_):
        if statement.startswith("BEGIN"):
            asked.append([])
        elif not statement.startswith("PRAGMA"):
            asked[-1].append(statement)

    event.listen(database._engine, "before_cursor_execute", execute)
    return asked


@pytest.mark.parametrize(
    ("ref", "number"),
    [
        ("latest", 3),
        ("stable", 1),
        ("v0", 0),
        ("2", 2),
        ("v02", 2),
        ("123456", 0),
        (DIGESTS[2], 2),
        ("abcdef1", 2),
        ("abcdef0", 3),  # published twice: the newest
    ],
)
def test_a_version_has_many_names(catalog, ref, number):
    assert [version.number for version in catalog.resolve("m", ref)] == [number]


@pytest.mark.parametrize("ref", ["", "v4", "-1", "candidate", "12345", "fedcba", "V1", "1.0", "v" + "9" * 30, "LATEST"])
def test_an_unknown_name_lists_the_choices(catalog, ref):
    with pytest.raises(NotFound, match=r"has no version .*; it has v0 to v3, labels latest \(v3\), stable \(v1\), and"):
        catalog.resolve("m", "latest", ref)


@pytest.mark.parametrize("ref", ["abcdef%", "abcdef_", "%", "abcde'", "\0"])
def test_a_name_is_no_pattern(catalog, ref):
    with pytest.raises(NotFound, match="has no version"):
        catalog.resolve("m", ref)


def test_an_ambiguous_digest_asks_for_more(catalog):
    with pytest.raises(NotFound, match=r"'abcdef' is the start of 2 digests of model 'm'; add digits"):
        catalog.resolve("m", "abcdef")


def test_an_unknown_model_lists_the_models(catalog):
    with pytest.raises(NotFound, match=r"model 'x' is not in the store; its models: m, other"):
        catalog.resolve("x", "latest")


def test_one_version_is_no_span(catalog):
    with pytest.raises(NotFound, match=r"it has v0, labels latest \(v0\), and"):
        catalog.resolve("other", "v1")


def test_a_range_has_both_ends(catalog):
    assert [version.number for version in catalog.between("m", "stable", "latest")] == [1, 2, 3]
    assert [version.number for version in catalog.between("m", "abcdef1", "123456")] == []


@pytest.mark.parametrize(("limit", "numbers"), [(None, [0, 1, 2, 3]), (3, [1, 2, 3]), (9, [0, 1, 2, 3])])
def test_a_history_is_the_newest_versions_with_the_labels(catalog, limit, numbers):
    found = catalog.history("m", limit=limit)
    assert [version.number for version in found.versions] == numbers
    assert (found.labels, found.total) == ({"latest": 3, "stable": 1}, 4)


def test_an_unknown_model_has_an_empty_history(catalog):
    found = catalog.history("x")
    assert (found.versions, found.labels, found.total) == ((), {}, 0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda catalog: catalog.resolve("m", "latest", "stable", "v0", "abcdef0"),
        lambda catalog: catalog.history("m", limit=2),
        lambda catalog: catalog.between("m", "stable", "latest"),
        lambda catalog: catalog.made_of(DIGESTS),
    ],
)
def test_what_belongs_together_is_one_transaction(catalog, transactions, ask):
    ask(catalog)
    assert len(transactions) == 1


def test_a_name_is_looked_up_without_reading_the_history(catalog, transactions):
    for number in range(300):
        publish(catalog, "m", f"{number:064x}", number)
    transactions.clear()
    for ref in ("latest", "stable", "v7", "abcdef1"):
        assert len(catalog.resolve("m", ref)) == 1
    with catalog._database.read() as connection:
        for statement in {asked for asking in transactions for asked in asking if asked.startswith("SELECT")}:
            marks = statement.count("?")
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", tuple("m" * marks)).all()
            assert not [row for row in plan if "SCAN versions" in row[3] or "SCAN artifacts" in row[3]], plan


def test_what_artifacts_are_made_of_is_asked_for_many_at_once(catalog, transactions):
    many = [f"{number:064x}" for number in range(1200)]
    edges, sizes = catalog.made_of([*DIGESTS, *many])
    assert {edge.target for edge in edges} == set(DIGESTS)
    assert sizes == {DIGESTS[0]: 1, DIGESTS[1]: 2, DIGESTS[2]: 3}
