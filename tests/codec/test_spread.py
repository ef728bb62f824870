import threading
import time

import pytest

from flserve_app.artifact.threads import SERIAL_BELOW_BYTES, workers
from flserve_app.codec.spread import spread

LARGE = SERIAL_BELOW_BYTES


def test_results_come_in_the_order_of_the_jobs():
    def slow_first(job):
        time.sleep(0.002 * (20 - job))
        return job

    assert list(spread(slow_first, range(20), LARGE)) == list(range(20))


def test_small_work_stays_on_the_callers_thread():
    here = threading.current_thread()
    assert set(spread(lambda _: threading.current_thread(), range(9), LARGE - 1)) == {here}


def test_who_waits_works_along():
    here, pause = threading.current_thread(), threading.Event()

    def job(number):
        if threading.current_thread() is not here:
            pause.wait(10)
        return threading.current_thread() is here

    # The other threads are stuck with one job each: without the caller's help nothing else would be done.
    results = spread(job, range(4 * workers()), LARGE)
    timer = threading.Timer(0.3, pause.set)
    timer.start()
    assert sum(results) >= 3 * workers()
    timer.join()


def test_failure_waits_for_jobs_in_flight():
    running = []

    def job(number):
        running.append(number)
        time.sleep(0.01)
        running.remove(number)
        if number == 1:
            raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        list(spread(job, range(100), LARGE))
    assert not running


def test_jobs_are_taken_a_few_ahead():
    taken = []
    results = spread(lambda job: job, (taken.append(job) or job for job in range(10_000)), LARGE)
    next(results)
    results.close()
    assert len(taken) < 1000
