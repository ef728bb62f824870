import os
import signal
import threading
import time

import pytest

from flserve_app.errors import DeliveryError
from flserve_app.experiments.command import called, last_words


def test_what_a_command_printed_comes_with_its_times(tmp_path):
    lines = called(["sh", "-c", "echo $WORD; pwd >&2"], cwd=tmp_path, environment={"WORD": "one"})
    assert [line for _, line in lines] == ["", "one", str(tmp_path), ""]
    assert [when for when, _ in lines] == sorted(when for when, _ in lines)
    assert time.time() - lines[0][0] < 60


def test_one_that_fails_is_an_error_with_its_last_words():
    with pytest.raises(DeliveryError, match=r"^sh -c .* failed: the disk is full$"):
        called(["sh", "-c", "printf '\\033[91mthe disk is full\\033[0m\\n\\n'; exit 3"])


def test_one_that_takes_too_long_is_killed():
    started = time.monotonic()
    with pytest.raises(DeliveryError, match="failed: it said nothing"):
        called(["sleep", "60"], limit_seconds=0.05)
    assert time.monotonic() - started < 30


def test_one_whose_caller_is_interrupted_is_killed(tmp_path):
    main = threading.main_thread().ident
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        called(["sh", "-c", "echo $$ > id; exec sleep 60"], cwd=tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "id").read_text()), 0)


def test_a_silent_command_has_no_last_words():
    assert last_words([(0.0, ""), (1.0, "\x1b[0m"), (2.0, "")]) == "it said nothing"
