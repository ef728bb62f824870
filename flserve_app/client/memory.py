"""How much memory this process may have: the least of what the machine, its cgroup and its limits allow."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

UNKNOWN = 8 << 30  # where nothing tells: what a model may have by default
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes() -> int:
    """Return the bytes that this process may have in all."""
    return min(_machine(), *_limits())


@cache
def _machine() -> int:
    found = [UNKNOWN]
    with suppress(AttributeError, ValueError, OSError):
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUPS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found)


def _limits() -> list[int]:
    try:
        import resource
    except ImportError:  # not on Windows
        return [1 << 62]
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return [limit for limit in limits if limit != resource.RLIM_INFINITY] or [1 << 62]
