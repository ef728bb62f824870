import os
import threading
import time

import pytest

from flserve_app.artifact.threads import SERIAL_BELOW_BYTES, each, gather, workers

LARGE = SERIAL_BELOW_BYTES


def test_results_are_in_the_order_of_the_jobs():
    def slow_first(job):
        time.sleep(0.001 * (20 - job))
        return job * job

    assert gather(slow_first, range(20), LARGE) == [job * job for job in range(20)]
    assert gather(str, [], LARGE) == []


def test_small_work_stays_on_the_callers_thread():
    here = threading.current_thread()
    assert set(gather(lambda _: threading.current_thread(), range(9), LARGE - 1)) == {here}


def test_large_work_is_done_by_the_caller_and_others():
    together = threading.Barrier(2, timeout=10)
    threads = set(gather(lambda _: together.wait() * 0 or threading.current_thread(), range(2), LARGE))
    assert threading.current_thread() in threads
    assert len(threads) == 2


def test_failure_waits_for_jobs_in_flight_and_begins_no_other():
    running, begun = [], []

    def job(number):
        begun.append(number)
        running.append(number)
        time.sleep(0.005)
        running.remove(number)
        if number == 1:
            raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        each(job, range(100), LARGE)
    assert not running
    assert len(begun) <= 2 + 2 * workers()


def test_a_job_may_spread_work_of_its_own():
    def outer(number):
        return sum(gather(lambda part: part + number, range(50), LARGE))

    assert gather(outer, range(20), LARGE) == [sum(range(50)) + 50 * number for number in range(20)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_are_there_after_a_fork():
    gather(str, range(9), LARGE)
    child = os.fork()
    if child == 0:
        os._exit(0 if gather(str, range(9), LARGE) == list(map(str, range(9))) else 1)
    assert os.waitpid(child, 0)[1] == 0
