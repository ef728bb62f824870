import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flserve_app.experiments import stopping
from flserve_app.experiments.stopping import SIGNALS, STOPPED_CODES, Stopped, keep_signals, stoppable


def stopped_by(work):
    """Return how a block that does this was stopped."""

    def block():
        with stoppable():
            work()

    with pytest.raises(Stopped) as found:
        block()
    return found.value


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_in_order(number):
    before = {each: signal.getsignal(each) for each in SIGNALS}
    closed = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            closed.append(True)

    stopped = stopped_by(work)
    assert (stopped.signal, stopped.exit_code, closed) == (number, 128 + number, [True])
    assert stopped.exit_code in STOPPED_CODES
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_what_is_sent_twice_is_one_request():
    cleaned = []

    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)

    assert stopped_by(work).signal == signal.SIGTERM
    assert cleaned == [True]


def test_whoever_asks_again_later_is_not_kept_waiting(monkeypatch):
    left = []
    monkeypatch.setattr(stopping, "ECHO_SECONDS", 0.01)
    monkeypatch.setattr(stopping.os, "_exit", left.append)

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(0.05)
            signal.raise_signal(signal.SIGTERM)

    stopped_by(work)
    assert left == [143]


def test_what_is_ignored_stays_ignored_and_others_handlers_stay():
    heard = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with stoppable():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert heard == [1]


def test_in_other_threads_nothing_changes():
    done = []

    def inside():
        with stoppable():
            keep_signals()
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGTERM)]


def test_a_handler_that_was_taken_over_below_python_is_installed_again():
    def work():
        ctypes.CDLL(None).signal(signal.SIGTERM, 1)  # SIG_IGN, unknown to Python
        os.kill(os.getpid(), signal.SIGTERM)
        keep_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    started = time.monotonic()
    assert stopped_by(work).signal == signal.SIGTERM
    assert time.monotonic() - started < 5


def test_a_command_that_is_stopped_prints_one_line_and_leaves_whatever_its_threads_do():
    code = (
        "import signal, sys, threading, time, types\n"
        "def busy(arguments):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "sys.modules['flserve_app.experiments.sweep'] = types.SimpleNamespace(run=busy)\n"
        "from flserve_app.cli import main\n"
        "sys.argv = ['flserve', 'run']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (143, "")
    assert done.stderr.splitlines() == ["error: stopped by SIGTERM"]
