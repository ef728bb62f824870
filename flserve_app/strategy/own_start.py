"""One call of `start`: Flower's round loop under versions, or the inner strategy's own.

A strategy that has a `start` of its own (checkpoints, a tracker, early stopping) is run by it. Rules:
- Its loop is called as the user called ours: with its own parameters and defaults, by position or by name.
- What changes is what every wrapped strategy gets: the Grid, version 0 in place of the initial arrays, the rounds
  that are left of a resumed run, an `evaluate_fn` that is noted.
- While it runs, the five methods that Flower's loop calls are the wrapper's, on that one object: so whatever its loop
  does with `self.configure_train` and `self.aggregate_train` publishes and delivers. Called from within themselves
  they are the strategy's, as are all others. Afterwards the object is as it was.
- A `start` of a strategy inside a wrapper of Flower's is never called, as in plain Flower.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, signature
from typing import Any, final

from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flserve_app.errors import ConfigError

HOOKS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate", "summary")
FLOWERS = tuple(signature(Strategy.start).parameters)[1:]
NEEDED = ("grid", "initial_arrays")


def has_own_start(strategy: Strategy) -> bool:
    """Whether a strategy's rounds are run by a `start` of its own."""
    return getattr(strategy.start, "__func__", None) is not Strategy.start


def check_own_start(strategy: Strategy) -> None:
    """Refuse a strategy's own `start` that versions could not be put under.

    Raises:
        ConfigError: If it takes no Grid, or no initial arrays.
    """
    takes = signature(strategy.start).parameters
    if any(each.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for each in takes.values()):
        return
    if missing := [name for name in NEEDED if name not in takes]:
        raise ConfigError(
            f"{type(strategy).__name__} has a start of its own that takes no {missing[0]}, so no versions can be put "
            f"under it: let start take {' and '.join(NEEDED)}, and use these in its loop"
        )


@final
class Loop:
    """A call of `start`.

    Args:
        inner: The strategy that is wrapped.
        args: What the user gave by position.
        kwargs: What the user gave by name.

    Raises:
        TypeError: If the strategy's `start` does not take that.
    """

    def __init__(self, inner: Strategy, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._inner = inner
        self.own = has_own_start(inner)
        self._parameters = signature(inner.start).parameters
        self._call = signature(inner.start).bind(*args, **kwargs)
        self._call.apply_defaults()

    def get(self, name: str, default: Any = None) -> Any:
        """Return what one of Flower's parameters is called with; the default if that is not said."""
        place = self._place(name)
        return default if place is None else place[0][place[1]]

    def rounds(self, *, resumed: bool) -> int | None:
        """Return how many rounds are asked for; None where only the loop knows.

        Raises:
            ConfigError: If a resumed run does not say it.
        """
        found: int | None = self.get("num_rounds")
        if found is None and resumed:
            name = type(self._inner).__name__
            raise ConfigError(
                f"{name}: how many rounds are left is not known: give num_rounds to start, which takes it"
            )
        return found

    def seconds(self, default: float) -> float:
        """Return the `timeout` of a phase, the default where it is not said or none."""
        return float(self.get("timeout", default) or default)

    def needed(self, name: str) -> Any:
        """Return what a parameter is called with. Raises TypeError if that is not said."""
        if self._place(name) is None:
            raise TypeError(f"start() misses an argument: {name!r}")
        return self.get(name)

    def run(
        self,
        hooks: Strategy,
        grid: Grid,
        arrays: ArrayRecord,
        *,
        num_rounds: int | None,
        evaluate_fn: Callable[..., Any] | None,
    ) -> Any:
        """Run the rounds, or as many as the loop does by itself, with the wrapper's methods; return what it returns."""
        self._put("grid", grid)
        self._put("initial_arrays", arrays)
        if evaluate_fn is not None:
            self._put("evaluate_fn", evaluate_fn)
        if num_rounds is not None:
            self._put("num_rounds", num_rounds)
        if not self.own:
            return Strategy.start(hooks, *self._call.args, **self._call.kwargs)
        if num_rounds == 0:
            return Result()  # a loop of somebody else need not know what to do without a round
        with intercepted(self._inner, hooks):
            return self._inner.start(*self._call.args, **self._call.kwargs)

    def _put(self, name: str, value: Any) -> None:
        place, extra = self._place(name), self._extra
        if place is None:
            if extra is not None:
                extra[name] = value
        elif isinstance(place[0], tuple):
            values = (*place[0][: place[1]], value, *place[0][place[1] + 1 :])
            self._call.arguments[self._star] = values
        else:
            place[0][place[1]] = value

    def _place(self, name: str) -> tuple[Any, Any] | None:
        """Return where an argument is: a collection, and its key there; None if it is not given."""
        if name in self._call.arguments and name not in (self._star, self._named(Parameter.VAR_KEYWORD)):
            return self._call.arguments, name
        extra = self._extra
        if extra is not None and name in extra:
            return extra, name
        values = self._call.arguments.get(self._star, ())
        before = [each for each in self._parameters.values() if each.kind is Parameter.POSITIONAL_OR_KEYWORD]
        at = FLOWERS.index(name) - len(before)
        return (values, at) if 0 <= at < len(values) else None

    @property
    def _extra(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call.arguments.get(self._named(Parameter.VAR_KEYWORD))
        return found

    @property
    def _star(self) -> str:
        return self._named(Parameter.VAR_POSITIONAL)

    def _named(self, kind: object) -> str:
        return next((name for name, each in self._parameters.items() if each.kind is kind), "")


@contextmanager
def intercepted(strategy: Strategy, hooks: Strategy) -> Iterator[None]:
    """Give a strategy the methods of another one that calls it, while the block runs."""
    mine = vars(strategy)
    before = {name: mine[name] for name in HOOKS if name in mine}
    guard: list[str] = []
    mine.update({name: _hook(getattr(strategy, name), getattr(hooks, name), guard) for name in HOOKS})
    try:
        yield
    finally:
        for name in HOOKS:
            mine.pop(name, None)
        mine.update(before)


def _hook(original: Callable[..., Any], ours: Callable[..., Any], guard: list[str]) -> Callable[..., Any]:
    """Return a method that is ours where a loop calls it, and the strategy's where ours does.

    What a loop says to it beyond Flower's parameters goes to the strategy's method with the rest.
    """
    takes = tuple(signature(ours).parameters)
    more: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    @wraps(original)  # with its module: whose the method is, decides what it is given
    def method(*args: Any, **kwargs: Any) -> Any:
        if guard:
            further, named = more[-1] if more else ((), {})
            return original(*args, *further, **kwargs, **named)
        guard.append(original.__name__)
        more.append((args[len(takes) :], {name: value for name, value in kwargs.items() if name not in takes}))
        try:
            return ours(*args[: len(takes)], **{name: value for name, value in kwargs.items() if name in takes})
        finally:
            more.pop()
            guard.pop()

    return method
