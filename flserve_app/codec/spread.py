"""Work over all cores, whose results are wanted in order and one by one.

Jobs run on the process's threads, at most a few a core at a time, so that what is in flight is bounded; who waits
for a result works along. Results come in the order of the jobs: nothing depends on timing. A job never spreads
its own work here, as it would wait for a pool that it fills.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from flserve_app.artifact.threads import SERIAL_BELOW_BYTES, pool, workers

_IN_FLIGHT_PER_WORKER = 4

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(function: Callable[[Job], Result], jobs: Iterable[Job], nbytes: int) -> Iterator[Result]:
    """Yield `function(job)` for each job, in order.

    Args:
        function: What to do; called on other threads if the work is worth it.
        jobs: Taken as results are fetched, a few ahead.
        nbytes: Bytes of data behind all jobs; below `SERIAL_BELOW_BYTES` the caller's thread does it alone.
    """
    if nbytes < SERIAL_BELOW_BYTES:
        yield from map(function, jobs)
        return
    running: deque[_Task[Job, Result]] = deque()
    try:
        for job in jobs:
            running.append(_Task(job, pool().submit(function, job)))
            if len(running) >= _IN_FLIGHT_PER_WORKER * workers():
                yield _first(function, running)
        while running:
            yield _first(function, running)
    finally:
        # A failed job must not leave others writing to arrays that the caller has given up.
        for task in running:
            task.future.cancel()
        for task in running:
            if not task.future.cancelled():
                task.future.exception()


@dataclass(slots=True)
class _Task(Generic[Job, Result]):
    """A job, and what another thread or the caller's will make of it."""

    job: Job
    future: Future[Result]


def _first(function: Callable[[Job], Result], running: deque[_Task[Job, Result]]) -> Result:
    """Take the first task out and return its result; until it is there, do jobs that no thread has begun."""
    while not running[0].future.done():
        mine = next((task for task in running if not task.future.done() and task.future.cancel()), None)
        if mine is None:
            break
        mine.future = Future()
        mine.future.set_result(function(mine.job))
    return running.popleft().future.result()
