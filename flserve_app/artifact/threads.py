"""Work over all cores of this process, on threads that all of it shares.

numpy, hashlib, zlib, zstandard and pcodec give up the interpreter lock while they work. The caller's thread
works along instead of waiting: on few cores, waking up a thread and handing it the lock costs as much as a
small job. So a job may spread work of its own: nobody ever waits for a job that has not begun.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import Generic, TypeVar, final

SERIAL_BELOW_BYTES = 1 << 18

Job = TypeVar("Job")
Result = TypeVar("Result")


def workers() -> int:
    """Number of threads that jobs run on, the caller's among them."""
    return max(2, os.cpu_count() or 1)


def pool() -> ThreadPoolExecutor:
    """Return this process's threads."""
    return _pool(os.getpid())


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    # A fork has the pool's value but none of its threads, hence the process.
    # One less than there are cores: whoever has work for them works along.
    return ThreadPoolExecutor(max_workers=workers() - 1, thread_name_prefix="flserve")


def each(function: Callable[[Job], object], jobs: Iterable[Job], nbytes: int) -> None:
    """Call `function(job)` for each job, in no order; after a failure no other job is begun.

    Args:
        function: What to do; called on other threads too if the work is worth it.
        jobs: Taken one by one, by one thread at a time.
        nbytes: Bytes of data behind all jobs; below `SERIAL_BELOW_BYTES` the caller's thread does it alone.
    """
    if nbytes < SERIAL_BELOW_BYTES:
        for job in jobs:
            function(job)
        return
    crew = _Crew(function, jobs)
    others = [pool().submit(crew.work) for _ in range(workers() - 1)]
    try:
        crew.work()
    finally:
        # A failed job must not leave others writing to arrays that the caller has given up.
        for other in others:
            if not other.cancel():
                other.exception()
    for other in others:
        if not other.cancelled():
            other.result()


def gather(function: Callable[[Job], Result], jobs: Sequence[Job], nbytes: int) -> list[Result]:
    """Return `function(job)` for each job, in their order; see `each`."""
    found: dict[int, Result] = {}

    def one(place: int) -> None:
        found[place] = function(jobs[place])

    each(one, range(len(jobs)), nbytes)
    return [found[place] for place in range(len(jobs))]


@final
class _Crew(Generic[Job]):
    """Threads that work through the same jobs."""

    def __init__(self, function: Callable[[Job], object], jobs: Iterable[Job]) -> None:
        self._function = function
        self._jobs = iter(jobs)
        self._lock = threading.Lock()
        self._failed = False

    def work(self) -> None:
        """Do jobs until there are no more, or one failed on any thread."""
        while not self._failed:
            with self._lock:
                job = list(islice(self._jobs, 1))
            if not job:
                return
            try:
                self._function(job[0])
            except BaseException:
                self._failed = True
                raise
