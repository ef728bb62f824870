import os
import subprocess
import sys
from dataclasses import replace

from flserve_app import processes
from flserve_app.processes import is_there, this_process


def test_this_process_is_there():
    here = this_process()
    assert (here.pid, bool(here.host), bool(here.begun)) == (os.getpid(), True, True)
    assert is_there(here) is True
    assert this_process() == here


def test_one_that_ended_is_not_and_one_whose_number_came_again_neither():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    seen = replace(this_process(), pid=child.pid, begun=processes._status(child.pid)[1])
    assert is_there(seen) is True
    assert is_there(replace(seen, begun="1")) is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_there(seen) is False  # nobody asked for its exit code yet
    child.communicate()
    assert is_there(seen) is False


def test_from_elsewhere_nobody_knows(monkeypatch):
    here = this_process()
    for other in (
        replace(here, place="elsewhere"),
        replace(here, pid=0),
        replace(here, pid=-1),
        replace(here, begun=""),
    ):
        assert is_there(other) is None
    monkeypatch.setattr(processes.os, "kill", lambda pid, signal: (_ for _ in ()).throw(PermissionError))
    assert is_there(here) is True


def test_where_the_system_tells_nothing_a_number_may_have_come_again(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    here = this_process()
    assert (here.place, here.begun) == (here.host, "")
    assert is_there(here) is None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert is_there(replace(here, pid=gone.pid)) is False
