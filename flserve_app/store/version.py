"""What the catalog knows, as values.

A version is one publication: its number counts within its model, its serial within its store, and neither is
ever given twice. Its digest names the content, and two versions may share it (a rollback). Everything here is
frozen; mappings inside are for reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

RunState = Literal["running", "finished", "failed", "interrupted"]
LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What it takes to serve a version.

    Attributes:
        model_id: Name under which the model is built.
        arguments: JSON arguments of that.
        inputs: JSON signature: per input its name, dtype and shape (None for the batch dimension).
        outputs: The same of the outputs.
        classes: Names of the classes in the order of the outputs.
        preprocessing: JSON description of what is done to an input first.
        seed: Decides the weights, where these are the initial ones: with it, this is a recipe for the artifact.
    """

    model_id: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    classes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One publication of an artifact under a model name.

    Attributes:
        model: The model's name.
        number: 0, 1, ... within the model.
        serial: Monotone within the store.
        digest: Hex SHA-256 of the artifact.
        nbytes: Bytes of the artifact's data.
        stored: Bytes that this publication added to the history; 0 where the content was there already.
        parent: Number of the version it was derived from, if any.
        round: Federated round that made it; 0 for the initial one.
        run: Id of the run that published it, if any.
        codec: Name of the codec by which it was delivered.
        metrics: Name to value; NaN and infinities may occur.
        created: When, in UTC.
        serving: What serving it takes, if recorded.
        collected: When its content was removed, in UTC; None while the store has it.
    """

    model: str
    number: int
    serial: int
    digest: str
    nbytes: int
    stored: int
    parent: int | None
    round: int
    run: str | None
    codec: str
    metrics: Mapping[str, float]
    created: datetime
    serving: Serving | None
    collected: datetime | None = None

    @property
    def name(self) -> str:
        """`v` and the number, as people write it."""
        return f"v{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A version before it has a number; the attributes are those of `Version`."""

    model: str
    digest: str
    nbytes: int
    parent: int | None
    round: int
    run: str | None
    codec: str
    metrics: Mapping[str, float]
    created: datetime
    serving: Serving | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A stored payload: it takes a holder of the base (or of nothing) to the target.

    Attributes:
        target: Digest of the artifact it makes.
        base: Digest of the artifact it needs, or None.
        codec: Name of the codec that made it.
        blob: SHA-256 of the payload, its name in the blob store.
        nbytes: Bytes of the payload.
    """

    target: str
    base: str | None
    codec: str
    blob: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the strategy remembered when a version was published.

    Attributes:
        kind: Names the form of the bytes; plain, at most 64 characters.
        blob: SHA-256 of the bytes, their name in the blob store.
        nbytes: How many bytes.
    """

    kind: str
    blob: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A client and what it held when it was last heard of.

    Attributes:
        identity: Its stable name; plain, at most 128 characters.
        digest: Hex SHA-256 of the artifact it held.
        number: Number of the version it worked with; None if it did not say.
        round: Federated round of its last answer.
        seen: When that was, in UTC; None stands for now.
    """

    identity: str
    digest: str
    number: int | None
    round: int
    seen: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run that publishes versions of a model.

    Attributes:
        run: Its id.
        model: Name of the model.
        config: The JSON configuration.
        started: When, in UTC.
        finished: When, in UTC; None while it runs.
        state: `running` or how it ended.
    """

    run: str
    model: str
    config: Mapping[str, Any]
    started: datetime
    finished: datetime | None
    state: RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMove:
    """One move of a label.

    Attributes:
        model: Name of the model.
        label: Name of the label.
        before: Number it stood at; None if it is new.
        after: Number it stands at since.
        who: Who moved it.
        why: The reason given.
        moved: When, in UTC.
    """

    model: str
    label: str
    before: int | None
    after: int
    who: str
    why: str
    moved: datetime
