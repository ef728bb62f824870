"""Signals that ask a run to stop: Ctrl-C, SIGTERM of a scheduler, a terminal that is closed.

Rules:
- A signal becomes `Stopped` in the main thread, so that whatever is open is closed, marked and removed on the way out.
- Schedulers and terminals send a signal more than once: what comes within a second of the first is the same request.
  One that comes later ends the process at once, for whoever cannot wait.
- A library that takes a signal over, below Python, is overruled (`keep_signals`).
- A process that was stopped ends without waiting for its threads: a client may train on for hours.
- A signal that the process was started to ignore (`nohup`) stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn, final

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED_CODES = tuple(128 + each for each in SIGNALS)  # what a shell says of a process that a signal ended
ECHO_SECONDS = 1.0


@final
class Stopped(KeyboardInterrupt):
    """The process was asked to stop.

    Attributes:
        signal: By which signal.
        then: How to go on with what was begun, if that is known.
    """

    then = ""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)

    @property
    def exit_code(self) -> int:
        """The exit code of a process that the signal ended."""
        return 128 + self.signal


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn signals into `Stopped` for a block; only the main thread can, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[float] = []

    def stop(number: int, _: FrameType | None) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise Stopped(number)
        if asked[-1] - asked[0] > ECHO_SECONDS:
            os._exit(128 + number)

    before = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in before.items():
        if handler in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            if signal.getsignal(each) is stop:
                signal.signal(each, handler)


def keep_signals() -> None:
    """Install again what Python knows as the handlers; only the main thread can, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        return
    for each in SIGNALS:
        if callable(handler := signal.getsignal(each)):
            signal.signal(each, handler)


def leave(code: int) -> NoReturn:
    """End the process now, with what it has printed."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
