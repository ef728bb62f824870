import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.errors import NotFound
from flserve_app.registry.history import cheapest_chain, delta_is_too_big, keyframe_is_due
from flserve_app.store import Edge


def edge(base: str | None, target: str, nbytes: int = 1) -> Edge:
    return Edge(target=target, base=base, codec="lossless", blob=f"{base}>{target}", nbytes=nbytes)


LINE = [edge(None, "a", 10), edge("a", "b"), edge("b", "c"), edge("c", "d")]


def test_a_chain_starts_at_its_keyframe():
    assert cheapest_chain("d", reversed(LINE)) == tuple(LINE)


def test_what_is_at_hand_shortens_the_chain():
    assert cheapest_chain("d", LINE, {"b", "a"}) == tuple(LINE[2:])
    assert cheapest_chain("d", LINE, {"d"}) == ()


def test_a_keyframe_is_taken_where_it_is_cheaper():
    keyframe = edge(None, "d", 12)
    assert cheapest_chain("d", [*LINE, keyframe]) == (keyframe,)
    assert cheapest_chain("d", [*LINE, keyframe], {"a"}) == tuple(LINE[1:])


def test_circles_end():
    assert cheapest_chain("b", [edge("b", "a"), edge("a", "b"), edge(None, "a")]) == (edge(None, "a"), edge("a", "b"))


@pytest.mark.parametrize("edges", [[], LINE[1:], [edge("b", "a"), edge("a", "b")]])
def test_no_way_is_not_found(edges):
    with pytest.raises(NotFound, match="artifact d cannot be made"):
        cheapest_chain("d", edges)


def all_costs(edges: list[Edge], at_hand: set[str], target: str) -> list[int]:
    """Cost of every way without a circle, by brute force."""
    ways: list[tuple[str | None, int, frozenset]] = [(start, 0, frozenset()) for start in (None, *at_hand)]
    costs = []
    while ways:
        node, cost, seen = ways.pop()
        if node == target:
            costs.append(cost)
            continue
        ways += [(e.target, cost + e.nbytes, seen | {node}) for e in edges if e.base == node and e.target not in seen]
    return costs


names = st.sampled_from("abcde")


@given(
    ends=st.lists(st.tuples(st.none() | names, names, st.integers(0, 9)), max_size=12, unique_by=lambda end: end[:2]),
    at_hand=st.sets(names, max_size=2),
)
def test_no_way_is_cheaper_than_the_chain(ends, at_hand):
    edges = [edge(*end) for end in ends]
    costs = all_costs(edges, at_hand, "a")
    if not costs:
        with pytest.raises(NotFound):
            cheapest_chain("a", edges, at_hand)
        return
    chain = cheapest_chain("a", edges, at_hand)
    assert sum(step.nbytes for step in chain) == min(costs)
    starts = [step.base for step in chain]
    assert not chain or (starts[0] is None or starts[0] in at_hand)
    assert [step.target for step in chain] == [*starts[1:], "a"][: len(chain)]


def test_keyframes_bound_the_length_of_a_chain():
    assert [keyframe_is_due(LINE[:length], 3) for length in range(5)] == [False, False, False, True, True]


def test_a_delta_is_measured_by_the_keyframe_of_its_chain():
    assert not delta_is_too_big(9, LINE)
    assert delta_is_too_big(10, LINE)
    assert not delta_is_too_big(10, LINE[1:])
