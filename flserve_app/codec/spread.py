"""Work over all cores, in order.

Jobs run on a pool of threads (numpy, zlib, zstandard and pcodec give up the interpreter lock), at most a few
a core at a time, so that what is in flight is bounded. Results come in the order of the jobs: nothing depends
on timing. A job never spreads its own work here, as it would wait for a pool that it fills.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

SERIAL_BELOW_BYTES = 1 << 18
_IN_FLIGHT_PER_WORKER = 4

Job = TypeVar("Job")
Result = TypeVar("Result")


def workers() -> int:
    """Number of threads that jobs run on."""
    return max(2, os.cpu_count() or 1)


@cache
def _pool(pid: int) -> ThreadPoolExecutor:
    # By process: a fork has the pool's value but none of its threads.
    return ThreadPoolExecutor(max_workers=workers(), thread_name_prefix="flserve-codec")


def submit(function: Callable[[Job], Result], job: Job) -> Future[Result]:
    """Have one job done on the same threads, after what waits already; for what nobody waits for yet."""
    return _pool(os.getpid()).submit(function, job)


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
    running: deque[Future[Result]] = deque()
    try:
        for job in jobs:
            running.append(_pool(os.getpid()).submit(function, job))
            if len(running) >= _IN_FLIGHT_PER_WORKER * workers():
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        # A failed job must not leave others writing to arrays that the caller has given up.
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                future.exception()
