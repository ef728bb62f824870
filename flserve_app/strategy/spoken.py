"""What is known of the clients' handlers, by the type of message: which were greeted, and which answered.

A greeting before anything was sent asks for the type that most apps have. Only one like a message that is about to be
sent, or was sent in vain, meets the same handler with the same records: see `roster`, `handlers`.
"""

from __future__ import annotations

from typing import final

Kind = tuple[int, str]  # a node, and the type of its messages


@final
class Spoken:
    """What each kind of messages met."""

    def __init__(self) -> None:
        self._asked: set[Kind] = set()
        self._answered: set[Kind] = set()
        self._plain: set[Kind] = set()
        self._met: set[Kind] = set()

    def ask(self, kind: Kind) -> None:
        """Note that a handler is greeted like a message to it."""
        self._asked.add(kind)

    def was_asked(self, kind: Kind) -> bool:
        """Whether it was greeted so."""
        return kind in self._asked

    def answer(self, kind: Kind) -> None:
        """Note that it answered a greeting."""
        self.meet(kind)
        self._plain.discard(kind)
        self._answered |= {kind} & self._asked

    def answered(self, kind: Kind) -> bool:
        """Whether it answered one like a message to it."""
        return kind in self._answered

    def meet(self, kind: Kind) -> None:
        """Note that `versioned_mod` stands before it: it answered, a greeting or a delivery."""
        self._met.add(kind)

    def has_mod(self, kind: Kind) -> bool:
        """Whether `versioned_mod` is known to stand before it: a reply without an answer then left it out."""
        return kind in self._met

    def fail(self, kind: Kind) -> None:
        """Note that it does not understand deliveries, as far as is known."""
        self._met.discard(kind)
        self._plain.add(kind)

    def is_plain(self, kind: Kind) -> bool:
        """Whether it gets plain arrays."""
        return kind in self._plain
