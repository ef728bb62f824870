from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flserve_app.delivery import Offer, Plan, Step, exact, least_direct, least_whole, plan, settles, whole
from flserve_app.delivery.plan import LEAST_DIRECT, MAX_STEPS, STEP_BYTES
from flserve_app.fleet import BASIC, CHAIN, RECIPE

A, B, C, D = (letter * 64 for letter in "abcd")
EVERYTHING = BASIC | {CHAIN, RECIPE}


def offer(base, target, nbytes, codec="lossless", known=True):
    return Offer(step=Step(base, target, codec), nbytes=nbytes, known=known)


WHOLE = offer(None, D, 100_000)
LINKS = [offer(A, B, 3000), offer(B, C, 3000), offer(C, D, 3000)]
SCRATCH = offer(None, A, 150, RECIPE)


@pytest.mark.parametrize(
    ("held", "offers", "takes", "kind", "path"),
    [
        pytest.param([D], [WHOLE], EVERYTHING, "none", [], id="it holds the target"),
        pytest.param([], [WHOLE, *LINKS], EVERYTHING, "full", [None], id="it holds nothing"),
        pytest.param([B], [WHOLE, offer(B, D, 60_000)], EVERYTHING, "delta", [B], id="a delta is less"),
        pytest.param([B], [WHOLE, offer(B, D, 100_033)], EVERYTHING, "full", [None], id="a delta is more"),
        pytest.param([A], [WHOLE, *LINKS], EVERYTHING, "chain", [A, B, C], id="a chain is less"),
        pytest.param([C], [WHOLE, *LINKS], EVERYTHING, "delta", [C], id="a chain of one is a delta"),
        pytest.param([A], [WHOLE, *LINKS, offer(A, D, 9000)], EVERYTHING, "delta", [A], id="each payload costs"),
        pytest.param([A], [WHOLE, *LINKS, offer(A, C, 4000)], EVERYTHING, "chain", [A, C], id="a short cut"),
        pytest.param([A, B], [WHOLE, *LINKS], EVERYTHING, "chain", [B, C], id="the nearest base"),
        pytest.param([A], [WHOLE, *LINKS[1:]], EVERYTHING, "full", [None], id="a link is missing"),
        pytest.param([A], [WHOLE, *LINKS], BASIC, "full", [None], id="it cannot take chains"),
        pytest.param([A], [WHOLE, *LINKS, offer(A, D, 60_000)], BASIC, "delta", [A], id="but a delta it can"),
        pytest.param([], [WHOLE, SCRATCH, *LINKS], EVERYTHING, "recipe", [None, A, B, C], id="a recipe and a chain"),
        pytest.param([], [WHOLE, SCRATCH, *LINKS], BASIC | {CHAIN}, "full", [None], id="it cannot build"),
        pytest.param([], [WHOLE, SCRATCH, offer(A, D, 900)], BASIC | {RECIPE}, "recipe", [None, A], id="no chain"),
        pytest.param([B], [WHOLE, SCRATCH, *LINKS], EVERYTHING, "chain", [B, C], id="what it holds is nearer"),
        pytest.param([C], [WHOLE, offer(C, D, 50, "grid")], EVERYTHING, "full", [None], id="it cannot read that"),
        pytest.param([C], [WHOLE, offer(C, D, 50, "grid")], BASIC | {"grid"}, "delta", [C], id="it can read that"),
        pytest.param(["e" * 64], [WHOLE, *LINKS], EVERYTHING, "full", [None], id="a base nobody knows"),
        pytest.param([A], [], EVERYTHING, "full", [None], id="nothing is offered"),
    ],
)
def test_what_a_client_gets(held, offers, takes, kind, path):
    found = plan(held, D, "lossless", offers, takes)
    assert (found.kind, [step.base for step in found.steps], found.unknown) == (kind, path, None)
    assert (found.target, found.codec) == (D, "lossless")
    assert not found.steps or found.steps[-1].target == D


@pytest.mark.parametrize("held", [[], [A], [D]])
def test_the_codec_full_always_sends_the_whole(held):
    assert plan(held, D, "full", [*LINKS, WHOLE], EVERYTHING) == whole(D, "full")
    assert whole(D, "full") == Plan(kind="full", target=D, codec="full", steps=(Step(None, D, "full"),))


@pytest.mark.parametrize(
    ("codec", "given"),
    [("full", "full"), ("lossless", "lossless"), ("lossless-small", "lossless-small"), ("grid", "lossless-small")],
)
def test_between_two_given_artifacts_a_codec_is_exact(codec, given):
    assert exact(codec) == given
    assert whole(D, codec).steps == (Step(None, D, given),)


def test_what_is_not_known_is_named_only_if_it_could_win():
    guess = offer(A, D, 6000, "lossless-small", known=False)
    assert plan([A], D, "grid", [WHOLE, *LINKS, guess], EVERYTHING).unknown == guess.step
    dear = offer(A, D, 10_000, "lossless-small", known=False)
    assert plan([A], D, "grid", [WHOLE, *LINKS, dear], EVERYTHING).kind == "chain"
    assert plan([A], D, "grid", [WHOLE, *LINKS, dear], EVERYTHING).unknown is None


def test_a_chain_is_never_longer_than_a_client_is_asked_to_follow():
    digests = [f"{number:064x}" for number in range(MAX_STEPS + 2)]
    links = [offer(one, other, 1) for one, other in pairwise(digests)]
    direct = [offer(digest, digests[-1], 90_000) for digest in digests[:2]]
    last = offer(None, digests[-1], 100_000)
    assert len(plan([digests[1]], digests[-1], "lossless", [*links, *direct, last], EVERYTHING).steps) == MAX_STEPS
    assert plan([digests[0]], digests[-1], "lossless", [*links, *direct, last], EVERYTHING).steps == (direct[0].step,)


def test_the_least_a_payload_may_plausibly_take():
    assert least_direct(1600, None) == 1600 // LEAST_DIRECT
    assert least_direct(1600, 900) == 450
    assert least_direct(1600, 10) == 100
    assert least_whole(1000) == 900


@pytest.mark.parametrize(("composed", "needless"), [(None, False), (249, True), (250, False)])
def test_a_small_composed_delta_makes_a_lossless_one_needless(composed, needless):
    assert settles(1000, composed) is needless


steps = st.builds(
    Offer,
    step=st.builds(
        Step,
        base=st.none() | st.sampled_from([A, B, C, D]),
        target=st.sampled_from([A, B, C, D]),
        codec=st.sampled_from(["lossless", "lossless-small", "grid"]),
    ),
    nbytes=st.integers(0, 200_000),
    known=st.booleans(),
)
abilities = st.sets(st.sampled_from([CHAIN, RECIPE, "grid"])).map(lambda some: BASIC | some)
helds = st.lists(st.sampled_from([A, B, C, D]), max_size=3)


@given(helds, st.lists(steps, max_size=12, unique_by=lambda each: each.step), abilities, st.booleans())
def test_a_plan_can_be_followed_and_never_costs_more_than_the_whole(held, offers, takes, rebuilt):
    offers = [*(each for each in offers if each.step != WHOLE.step), WHOLE, *([SCRATCH] if rebuilt else [])]
    found = plan(held, D, "grid", offers, takes)
    sizes = {each.step: each for each in offers}
    if found.kind == "none":
        assert D in held
        return
    assert sum(sizes[step].nbytes for step in found.steps) <= WHOLE.nbytes
    assert found.steps[0].base is None or found.steps[0].base in held
    assert [step.target for step in found.steps[:-1]] == [step.base for step in found.steps[1:]]
    assert found.steps[-1].target == D
    assert all(step.codec in takes for step in found.steps)
    assert CHAIN in takes or len([step for step in found.steps if step.codec != RECIPE]) == 1
    assert found.unknown == next((step for step in found.steps if not sizes[step].known), None)
    cheapest = sum(sizes[step].nbytes + STEP_BYTES for step in found.steps)
    for each in offers:
        usable = each.step.target == D and (each.step.base is None or each.step.base in held)
        assert not usable or each.step.codec not in takes or each.nbytes + STEP_BYTES >= cheapest
