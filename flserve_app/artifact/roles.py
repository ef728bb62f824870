"""What a tensor is for: it decides how it may travel, and whether it does.

A `weight` is trained and may be rounded. A `statistic` (the running mean and variance of a norm layer) is measured
and a `buffer` (a counter, a mask, an index) is neither: both are kept exact. A `private` tensor stays with each
client and never travels. Rules:
- The first pattern of names that fits decides; the user's own come before the built-in ones.
- What is no real float is a buffer, even where a pattern says `weight`: it cannot be rounded.
- A pattern that decides nothing is an error: it is misspelt, or one before it takes all that it fits, and a tensor
  that was meant to stay private would travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal, Self, get_args

from flserve_app.artifact.artifact import Artifact
from flserve_app.artifact.dtypes import dtype_named
from flserve_app.errors import ConfigError

Role = Literal["weight", "statistic", "buffer", "private"]
KNOWN: tuple[Role, ...] = get_args(Role)
MOST_PATTERNS = 256
MOST_CHARACTERS = 256  # of a pattern

PATTERNS: Mapping[str, Role] = MappingProxyType(
    {
        "*running_mean": "statistic",
        "*running_var": "statistic",
        "*num_batches_tracked": "buffer",
    }
)


@dataclass(frozen=True, slots=True)
class Roles:
    """Patterns of names and what they stand for, in the order in which they are asked.

    Attributes:
        rules: Pairs of a shell-style pattern (`*`, `?` and `[...]`, case matters) and a role.

    Raises:
        ConfigError: If there are too many, a pattern is empty, too long or stands twice, or a role is unknown.
    """

    rules: tuple[tuple[str, Role], ...] = ()

    def __post_init__(self) -> None:
        """Check all bounds."""
        if len(self.rules) > MOST_PATTERNS:
            raise ConfigError(f"roles: {len(self.rules)} patterns, at most {MOST_PATTERNS} are allowed")
        for pattern, role in self.rules:
            if not isinstance(pattern, str) or not 0 < len(pattern) <= MOST_CHARACTERS:
                raise ConfigError(
                    f"roles: pattern {str(pattern)[:80]!r} is not a text of 1 to {MOST_CHARACTERS} characters"
                )
            if role not in KNOWN:
                raise ConfigError(f"roles: {pattern!r} is {str(role)[:80]!r}, expected one of: {', '.join(KNOWN)}")
        if len({pattern for pattern, _ in self.rules}) < len(self.rules):
            raise ConfigError("roles: a pattern stands twice")

    @classmethod
    def from_pairs(cls, pairs: Iterable[Iterable[object]]) -> Self:
        """Return the rules in pairs of pattern and role, as JSON or a mapping's items give them.

        Raises:
            ConfigError: If they are no such pairs.
        """
        try:
            return cls(tuple((pattern, role) for pattern, role in pairs))  # type: ignore[misc]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"roles: expected pairs of a pattern and a role: {error}") from error

    def of(self, artifact: Artifact) -> dict[str, Role]:
        """Return the role of each tensor, by name."""
        return {name: self._of(name, spec.dtype) for name, spec in artifact.specs.items()}

    def private(self, artifact: Artifact) -> tuple[str, ...]:
        """Return the names of the tensors that never travel, in order."""
        return tuple(name for name, role in self.of(artifact).items() if role == "private")

    def exact(self, artifact: Artifact) -> frozenset[str]:
        """Return the names of the tensors that must not be rounded."""
        return frozenset(name for name, role in self.of(artifact).items() if role != "weight")

    def check(self, artifact: Artifact) -> None:
        """Refuse rules that do not fit a model.

        Raises:
            ConfigError: If a pattern decides no tensor, or all tensors are private.
        """
        deciding = {self._first(name) for name in artifact}
        for at, (pattern, role) in enumerate(self.rules):
            if at not in deciding:
                raise ConfigError(f"roles: {pattern!r} ({role}) decides nothing: {_why(pattern, artifact)}")
        if artifact and len(self.private(artifact)) == len(artifact):
            raise ConfigError(f"roles: all {len(artifact)} tensors are private, which leaves nothing to learn together")

    def _of(self, name: str, dtype: str) -> Role:
        at = self._first(name)
        wanted = _built_in(name) if at is None else self.rules[at][1]
        found = dtype_named(dtype)
        is_float = found.kind == "float" and found.words_per_item == 1
        return wanted if is_float or wanted != "weight" else "buffer"

    def _first(self, name: str) -> int | None:
        """Return the place of the pattern that decides a name; None if that is left to the built-in ones."""
        return next((at for at, (pattern, _) in enumerate(self.rules) if fnmatchcase(name, pattern)), None)


NO_ROLES = Roles()


def _built_in(name: str) -> Role:
    return next((role for pattern, role in PATTERNS.items() if fnmatchcase(name, pattern)), "weight")


def _why(pattern: str, artifact: Artifact) -> str:
    if any(fnmatchcase(name, pattern) for name in artifact):
        return "those before it decide all that it fits"
    return f"no tensor fits it; one is {next(iter(artifact), '')!r}"
