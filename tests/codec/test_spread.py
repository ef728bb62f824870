import os
import threading
import time

import pytest

from flserve_app.codec.spread import SERIAL_BELOW_BYTES, spread

LARGE = SERIAL_BELOW_BYTES


def test_results_come_in_the_order_of_the_jobs():
    def slow_first(job):
        time.sleep(0.002 * (20 - job))
        return job

    assert list(spread(slow_first, range(20), LARGE)) == list(range(20))


def test_small_work_stays_on_the_callers_thread():
    here = threading.current_thread()
    assert set(spread(lambda _: threading.current_thread(), range(9), LARGE - 1)) == {here}
    assert here not in set(spread(lambda _: threading.current_thread(), range(9), LARGE))


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_pool_works_after_a_fork():
    list(spread(str, range(9), LARGE))
    child = os.fork()
    if child == 0:
        os._exit(0 if list(spread(str, range(9), LARGE)) == list(map(str, range(9))) else 1)
    assert os.waitpid(child, 0)[1] == 0
