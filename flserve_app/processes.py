"""Which process holds something, and whether it is gone.

A number alone names no process: numbers come again. So a process is known by its host, the boot and the process
namespace it runs in, its number and the moment it began. Whether it is gone can only be seen from the same place; where
the system does not tell enough, the answer is that nobody knows.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_BEGUN = 19  # of the fields in /proc/PID/stat that come after the name, which is in parentheses
_DEAD = frozenset("ZX")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process on one host.

    Attributes:
        host: Name of the host, for people.
        place: Host, boot and process namespace: within it a number means one process at a time.
        pid: Its number.
        begun: When it began, in ticks since the boot; "" if the system does not tell.
    """

    host: str
    place: str
    pid: int
    begun: str


def this_place() -> str:
    """Return the place of the process that calls."""
    return _place(platform.node()[:128])


def this_process() -> Process:
    """Return the process that calls."""
    host, pid = platform.node()[:128], os.getpid()
    return Process(host=host, place=_place(host), pid=pid, begun=_status(pid)[1])


def is_there(process: Process) -> bool | None:
    """Return whether a process still runs; None if that cannot be seen from here."""
    if process.place != this_place() or process.pid <= 0:
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's: it is there, or its number was given again
    state, begun = _status(process.pid)
    if state in _DEAD or (begun and process.begun and begun != process.begun):
        return False
    return True if begun and process.begun else None


def _place(host: str) -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return host
    return f"{host} {boot} {namespace}"[:255]


def _status(pid: int) -> tuple[str, str]:
    """Return a process's state, as one letter, and when it began; "" for what the system does not tell."""
    try:
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return (after_name[0], after_name[_BEGUN]) if len(after_name) > _BEGUN else ("", "")
