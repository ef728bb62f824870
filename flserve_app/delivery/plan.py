"""Plans: the cheapest way, by bytes, from what a client holds to what it shall hold.

A pure function: values in, a plan out. What leads where is given as *offers*, each a payload with its bytes. The
bytes of a payload that exists (in the history, in the cache) are known; one that would have to be made first is
offered with the least it may plausibly take. The cheapest way is looked for with these numbers. If it needs a
payload whose bytes are not known, that one is made and the plan made again: so nothing is encoded that could not
plausibly win, and what is sent was measured. Rules:
- A client that holds the target gets nothing, but under `full`, which always sends the whole model, as Flower
  does: it is what the others are measured against.
- A direct delta that was never made is taken for at least 1/16 of the whole model, and at least half of the
  smallest that this run has measured: a chain of known payloads below that is sent without making one.
- A composed delta (`codec.composed`) is taken for at least what the smallest known payload to the target takes, so that
  it is made where there is more than one step to go; without any for at least 1/256 of the whole model.
- Where a composed delta is known that takes less than 1/4 of the whole model, no lossless one is made from the same
  base: what lies on no grid, and half floats wherever that is less, travel in it as in that.
- The whole model, compressed, is taken for at least 9/10 of what it last took: where the best other way takes
  less it is not made, otherwise it is, and nothing larger is ever sent. Should a version suddenly take much less
  than that, a direct delta takes no more than it and a header: the encoder leaves out a base that does not help.
- Every payload costs `STEP_BYTES` of message beside its own bytes, and a chain has at most `MAX_STEPS`.
- A client gets only what it said it can take: chains, recipes, codecs; one that said nothing gets one payload of
  a codec in `BASIC`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from flserve_app.errors import NotFound
from flserve_app.fleet import BASIC, CHAIN, RECIPE
from flserve_app.registry import Edge, cheapest_chain

PlanKind = Literal["none", "delta", "chain", "recipe", "full"]

FULL = "full"
SMALLEST = "lossless-small"
STEP_BYTES = 320
MAX_STEPS = 128
LEAST_DIRECT = 16
LEAST_COMPOSED = 256
SETTLED = 4


class Step(NamedTuple):
    """One payload, by what it depends on.

    Attributes:
        base: Hex digest of the artifact it is relative to; None for none.
        target: Hex digest of the artifact it leads to.
        codec: Name of the codec it is made with; `recipe` for one that is built instead.
    """

    base: str | None
    target: str
    codec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A payload that could be sent.

    Attributes:
        step: Which one.
        nbytes: Its bytes, or the least it may plausibly take.
        known: Whether they are known.
    """

    step: Step
    nbytes: int
    known: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one client gets.

    Attributes:
        kind: `none` (it holds the target), `delta` (one payload relative to what it holds), `chain` (several, each
            relative to the one before), `recipe` (it builds the first artifact, payloads may follow) or `full` (one
            payload relative to nothing).
        target: Hex digest of the artifact to hold.
        codec: The delivery codec.
        steps: What is sent, in order.
        unknown: The first of them whose bytes are not known; None if all are.
    """

    kind: PlanKind
    target: str
    codec: str
    steps: tuple[Step, ...] = ()
    unknown: Step | None = None


def exact(codec: str) -> str:
    """Return the codec for a payload between two given artifacts: a lossy one would lead to a third."""
    return codec if codec in BASIC else SMALLEST


def whole(target: str, codec: str) -> Plan:
    """Return the plan that sends the whole artifact, compressed unless the codec is `full`."""
    return Plan(kind="full", target=target, codec=codec, steps=(Step(None, target, exact(codec)),))


def plan(held: Sequence[str], target: str, codec: str, offers: Iterable[Offer], takes: Collection[str] = BASIC) -> Plan:
    """Return how to bring a client to the target with the fewest bytes.

    Args:
        held: Digests the client said it holds.
        target: Digest of the artifact to hold.
        codec: The delivery codec.
        offers: Payloads, of which any may be of use; no step twice. Without one for the whole artifact it is the
            last resort.
        takes: What the client can take: `chain`, `recipe` and names of codecs.
    """
    if codec == FULL:
        return whole(target, codec)
    if target in held:
        return Plan(kind="none", target=target, codec=codec)
    usable = {offer.step: offer for offer in offers if offer.step.codec in takes}
    steps = _cheapest(held, target, usable) if CHAIN in takes else None
    if steps is None or len(steps) > MAX_STEPS:
        steps = _cheapest(held, target, _single(usable, target))
    if steps is None:
        return whole(target, codec)
    unknown = next((step for step in steps if not usable[step].known), None)
    return Plan(kind=_kind(steps), target=target, codec=codec, steps=steps, unknown=unknown)


def least_direct(whole_bytes: int, measured: int | None) -> int:
    """Return the least bytes a direct delta may plausibly take.

    Args:
        whole_bytes: What the whole artifact takes.
        measured: The smallest direct delta of the run so far.
    """
    return max(whole_bytes // LEAST_DIRECT, 0 if measured is None else measured // 2)


def least_composed(whole_bytes: int, link: int | None) -> int:
    """Return the least bytes a composed delta may plausibly take.

    Args:
        whole_bytes: What the whole artifact takes.
        link: The smallest known payload to the target that is relative to something.
    """
    return whole_bytes // LEAST_COMPOSED if link is None else link


def settles(whole_bytes: int, composed: int | None) -> bool:
    """Return whether a composed delta of so many bytes, None if they are not known, makes a lossless one needless."""
    return composed is not None and composed < whole_bytes // SETTLED


def least_whole(last: int) -> int:
    """Return the least bytes a whole artifact may plausibly take, from what the last one took."""
    return last * 9 // 10


def _single(offers: dict[Step, Offer], target: str) -> dict[Step, Offer]:
    """Return what leads to the target in one payload, behind a recipe perhaps."""
    return {step: offer for step, offer in offers.items() if step.target == target or step.codec == RECIPE}


def _cheapest(held: Sequence[str], target: str, offers: dict[Step, Offer]) -> tuple[Step, ...] | None:
    edges = [
        Edge(
            target=step.target,
            base=step.base,
            codec=step.codec,
            # Equal costs are decided by this name.
            blob=f"{step.codec} {step.base} {step.target}",
            nbytes=offer.nbytes + STEP_BYTES,
        )
        for step, offer in offers.items()
    ]
    try:
        chain = cheapest_chain(target, edges, held)
    except NotFound:
        return None
    return tuple(Step(edge.base, edge.target, edge.codec) for edge in chain)


def _kind(steps: tuple[Step, ...]) -> PlanKind:
    if steps[0].codec == RECIPE:
        return "recipe"
    if len(steps) > 1:
        return "chain"
    return "full" if steps[0].base is None else "delta"
