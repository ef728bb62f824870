"""What reading one reply failed with, whatever it was.

A client decides what is in its reply, and so what goes wrong in reading it: an error that nobody foresaw, memory or
stack that do not suffice. None of it may be more than that reply's failure, with a line in the log.
"""

from __future__ import annotations

from logging import DEBUG

from flwr.common.logger import log

from flserve_app.errors import DeliveryError, FlserveError
from flserve_app.text import plain, type_name


def failure(error: Exception) -> FlserveError:
    """Return an error as one of flserve's: itself if it is one, and else a sentence about it."""
    if isinstance(error, FlserveError):
        return error
    # Nothing of it would be seen otherwise, should the fault be ours.
    log(DEBUG, "flserve: reading a reply failed", exc_info=error)
    said = plain(error)
    return DeliveryError(f"it cannot be read: {type_name(error)}{': ' if said else ''}{said}")
