from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.errors import NotFound, StoreError
from flserve_app.registry import Retention, cheapest_chain
from flserve_app.registry.retention import MOST_HELD, forgotten_clients, kept_digests, removal, stranded
from flserve_app.store import Edge, Holder, Inventory, State, Version

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def digest(number: int) -> str:
    return f"{number:064x}"


def version(number: int, content: int | None = None, model: str = "m") -> Version:
    return Version(
        model=model,
        number=number,
        serial=number + 1,
        digest=digest(number if content is None else content),
        nbytes=1,
        stored=1,
        parent=None,
        round=number,
        run=None,
        codec="lossless",
        metrics={},
        created=NOON - (9 - number) * DAY,
        serving=None,
    )


def edge(base: int | None, target: int, nbytes: int = 1) -> Edge:
    name = None if base is None else digest(base)
    return Edge(target=digest(target), base=name, codec="lossless", blob=f"{base}>{target}", nbytes=nbytes)


def line(count: int = 10, keyframe_every: int = 4) -> list[Edge]:
    return [edge(number - 1 if number % keyframe_every else None, number) for number in range(count)]


def inventory(versions=None, edges=None, *, labels=None, former=(), states=None, holders=()) -> Inventory:
    versions = [version(number) for number in range(10)] if versions is None else versions
    standing = {("m", name): number for name, number in (labels or {"latest": len(versions) - 1}).items()}
    return Inventory(
        versions=tuple(versions),
        edges=tuple(line() if edges is None else edges),
        labels=standing,
        former=frozenset(("m", number) for number in former),
        states={("m", number): state for number, state in (states or {}).items()},
        holders=tuple(("m", holder) for holder in holders),
    )


def holder(number: int, days: float = 1, identity: str = "a") -> Holder:
    return Holder(identity=identity, digest=digest(number), number=number, round=1, seen=NOON - days * DAY)


def kept(store: Inventory, **rule) -> list[int]:
    return sorted(int(one, 16) for one in kept_digests(store, Retention(**rule), NOON))


def test_without_a_rule_nothing_goes():
    assert kept(inventory()) == list(range(10))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"keep": 3}, [7, 8, 9]),
        ({"keep": 0}, [9]),
        ({"keep": 99}, list(range(10))),
        ({"older_than": 3 * DAY}, [6, 7, 8, 9]),
        ({"older_than": timedelta(0)}, [9]),
        ({"keep": 2, "older_than": 5 * DAY}, [4, 5, 6, 7, 8, 9]),
        ({"keep": 8, "older_than": 5 * DAY}, [2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_the_newest_and_the_young_stay(rule, expected):
    assert kept(inventory(), **rule) == expected


def test_what_a_label_names_stays():
    assert kept(inventory(labels={"latest": 9, "stable": 2}), keep=1) == [2, 9]


def test_what_a_label_once_named_stays_when_asked():
    store = inventory(former=[1, 4])
    assert kept(store, keep=1) == [9]
    assert kept(store, keep=1, keep_labelled=True) == [1, 4, 9]


def test_what_a_live_client_holds_stays():
    store = inventory(holders=[holder(3, days=29), holder(5, days=31, identity="b"), holder(77, identity="c")])
    assert kept(store, keep=1) == [3, 9]
    assert kept(store, keep=1, forget_clients=40 * DAY) == [3, 5, 9]
    assert forgotten_clients(store, Retention(), NOON) == (("m", "b"),)


def test_what_another_models_client_says_to_hold_does_not_stay():
    store = inventory()
    foreign = replace(store, holders=(("other", holder(3)), ("m", holder(77, identity="b"))))
    assert kept(foreign, keep=1) == [9]


def test_so_many_stay_for_clients_at_most_those_first_that_most_hold():
    many = [version(number, number) for number in range(60)]
    made = [edge(None, number) for number in range(60)]
    holders = [holder(number, identity=f"x{number}") for number in range(50)]
    store = inventory(many, made, labels={"latest": 59}, holders=[*holders, holder(0, identity="y")])
    assert kept(store, keep=1) == sorted({59, 0, *range(50 - MOST_HELD + 1, 50)})


@pytest.mark.parametrize("copy", [1, 3, 30])
def test_a_copy_for_a_client_stays_only_as_long_as_more_goes(copy):
    """Whatever clients say to hold, the store is not larger after than before."""
    edges = [edge(None, 0, copy), *(edge(number - 1, number) for number in range(1, 10))]
    holders = [holder(number, identity=f"x{number}") for number in range(1, 9)]
    store = inventory(edges=edges, holders=holders)
    digests = kept_digests(store, Retention(keep=1), NOON)
    keyframes = [edge(None, int(one, 16), copy) for one in stranded(digests, store)]
    done = removal(store, Retention(keep=1), NOON, keyframes)
    before = sum(one.nbytes for one in edges)
    after = before - sum(one.nbytes for one in done.edges) + sum(one.nbytes for one in done.keyframes)
    alone = kept_digests(replace(store, holders=()), Retention(keep=1), NOON)
    assert after <= max(before, copy)
    assert alone <= digests


def test_copies_that_came_out_larger_than_thought_are_not_kept():
    """The first version, of zeros, took a byte."""
    edges = [edge(None, 0, 1), *(edge(number - 1, number, 20) for number in range(1, 10))]
    holders = [holder(number, identity=f"x{number}") for number in (2, 4, 6)]
    store = inventory(edges=edges, holders=holders)
    digests = kept_digests(store, Retention(keep=1), NOON)
    keyframes = [edge(None, int(one, 16), 100) for one in stranded(digests, store)]
    done = removal(store, Retention(keep=1), NOON, keyframes)
    assert sum(one.nbytes for one in done.keyframes) <= sum(one.nbytes for one in done.edges)


def test_the_newest_are_counted_for_each_model():
    versions = [version(number, model="a") for number in range(4)] + [
        version(number, 4 + number) for number in range(4)
    ]
    assert kept(inventory(versions, labels={"latest": 3}), keep=2) == [2, 3, 6, 7]


def test_versions_of_the_same_content_share_its_fate():
    versions = [*(version(number) for number in range(9)), version(9, content=2)]
    assert kept(inventory(versions, line(9)), keep=1) == [2]


def test_a_chain_that_is_cut_gets_one_keyframe():
    store = inventory()
    assert stranded({digest(number) for number in (6, 7, 8, 9)}, store) == (digest(6),)
    assert stranded({digest(number) for number in (4, 5, 8, 9)}, store) == ()
    assert stranded({digest(number) for number in (1, 3, 9)}, store) == (digest(1), digest(3), digest(9))


def test_what_goes_is_what_no_kept_version_needs():
    store = inventory(states={6: State(kind="x", blob="s6", nbytes=1), 9: State(kind="x", blob="s9", nbytes=1)})
    found = removal(store, Retention(keep=3), NOON, [edge(None, 7, 9)])
    assert [one.blob for one in found.keyframes] == ["None>7"]
    assert {one.blob for one in found.edges} == {one.blob for one in line()[:8]}
    assert found.digests == {digest(number) for number in range(7)}
    assert found.states == (("m", 6),)


def test_without_a_keyframe_the_chain_stays():
    """Another process published since the keyframes were made."""
    found = removal(inventory(), Retention(keep=3), NOON, [])
    assert found.digests == {digest(number) for number in range(4)}
    assert {one.blob for one in found.edges} == {one.blob for one in line()[:4]}


@pytest.mark.parametrize("rule", [{"keep": -1}, {"older_than": -DAY}, {"forget_clients": -DAY}])
def test_a_rule_has_bounds(rule):
    with pytest.raises(StoreError, match=r"retention: .* found -"):
        Retention(**rule)


numbers = st.integers(0, 7)


@given(
    edges=st.lists(st.tuples(st.none() | numbers, numbers), max_size=20, unique=True),
    wanted=st.sets(numbers),
    prepared=st.booleans(),
)
def test_what_is_kept_can_be_made_from_what_stays(edges, wanted, prepared):
    """Whatever the graph, with circles and loose ends: nothing kept is lost, nothing else stays for nothing."""
    every = [edge(*ends) for ends in edges]
    made = set()
    for number in range(8):
        try:
            cheapest_chain(digest(number), every)
            made.add(number)
        except NotFound:
            pass
    versions = [version(number) for number in sorted(made)]
    store = inventory(versions, every, labels={f"l{number}": number for number in wanted & made} or {"none": 0})
    if not made:
        return
    if not wanted & made:
        store = inventory(versions, every, labels={"latest": min(made)})
    rule = Retention(keep=0)
    held = kept_digests(store, rule, NOON)
    keyframes = [edge(None, int(one, 16), 9) for one in stranded(held, store)]
    found = removal(store, rule, NOON, keyframes if prepared else [])
    staying = [*(one for one in every if one not in found.edges), *found.keyframes]
    for one in held:
        assert cheapest_chain(one, staying)
    assert not held & found.digests
    assert {one.target for one in staying}.isdisjoint(found.digests)
    if prepared:
        assert {one.target for one in staying} == held
