"""Death at a chosen write: `die_at(n)` lets the calling process end, as by kill -9, just before its nth write.

A write is whatever changes a file or the catalog: opening a file to write, fsync, rename, remove, mkdir, each
INSERT, UPDATE and DELETE, and each commit. Death at an fsync also loses half of the file that was to be synced, as
a power cut may.
"""

import os
import stat
import sys
from itertools import count

from sqlalchemy import Engine, event

KILLED = 77
_FILE_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
_SQL = ("INSERT", "UPDATE", "DELETE")


def die_at(number: int) -> None:  # noqa: C901
    """Count the writes of this process from now on, and end it at one; there is no way back."""
    left = number

    def write() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(KILLED)

    def audit(name, arguments):
        opened = name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if opened or name in _FILE_EVENTS:
            write()

    sync = os.fsync

    def fsync(descriptor):
        status = os.fstat(descriptor)
        if left == 1 and stat.S_ISREG(status.st_mode):
            os.ftruncate(descriptor, status.st_size // 2)
        write()
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(audit)

    @event.listens_for(Engine, "before_cursor_execute")
    def execute(connection, cursor, statement, *_):
        if statement.split()[0] in _SQL:
            write()

    @event.listens_for(Engine, "commit")
    def commit(connection):
        if connection.get_execution_options().get("flserve_writes"):
            write()


def at_every_write(prepare, act, check):
    """Do something in children that die at their first, second, ... write; the last one lives to the end.

    Args:
        prepare: Called before each; gives what `act` and `check` get.
        act: Called in the child.
        check: Called after each child, with whether it lived to the end.

    Returns:
        How many writes there are.
    """
    for number in count(1):
        place = prepare()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_at(number)
                act(place)
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, KILLED), f"failed by itself before write {number}"
        check(place, code == 0)
        if code == 0:
            return number - 1
    raise AssertionError
