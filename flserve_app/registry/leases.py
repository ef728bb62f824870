"""Holding a model's lease for as long as a run lasts, and saying meanwhile that it lives."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import final

from flserve_app.errors import StoreError
from flserve_app.processes import this_process
from flserve_app.store import Database, Lease, Leases

HEARD_SECONDS = 10.0
# What any registry of this process holds: such a lease is alive, whatever a clock says.
_mine: set[str] = set()


@final
class LeaseKeeper:
    """The leases that one registry's runs hold.

    Args:
        database: The catalog.
        clock: Gives the time.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._leases = Leases(database)
        self._clock = clock
        self._held: dict[str, Lease] = {}

    def token(self, model: str) -> str | None:
        """Return the token of the lease that a run of this registry holds on a model, if one does."""
        held = self._held.get(model)
        return None if held is None else held.token

    def check_free(self, model: str) -> None:
        """Refuse a model that another run holds now. Raises Conflict."""
        self._leases.check_free(model, mine=_mine, now=self._clock())

    def check_unused(self) -> None:
        """Refuse a store in which a run holds any model now. Raises Conflict."""
        for model in self._leases.models():
            self.check_free(model)

    @contextmanager
    def hold(self, model: str, run: str | None = None) -> Iterator[None]:
        """Hold a model's lease for a block; within it the run may hold it again.

        Args:
            model: Name of the model, which need not be there yet.
            run: Id of the run, if it has one.

        Raises:
            Conflict: If another run holds it.
            StoreError: If the model's name is not plain, or the store cannot be written.
        """
        held = self._held.get(model)
        if held is not None and run is not None and held.run == run:
            yield
            return
        lease = self._new(model, run)
        self._leases.take(lease, mine=_mine)
        ended = threading.Event()
        teller = threading.Thread(target=self._tell, args=(lease, ended), name="flserve-lease", daemon=True)
        _mine.add(lease.token)
        self._held[model] = lease
        try:
            teller.start()
            yield
        finally:
            ended.set()
            _mine.discard(lease.token)
            self._held.pop(model, None)
            if teller.is_alive():  # it may not have been started
                teller.join()
            # Where the store cannot be written any more the lease is free once the process ends, or is not heard of.
            with suppress(StoreError):
                self._leases.give_back(lease)

    def _new(self, model: str, run: str | None) -> Lease:
        now = self._clock()
        return Lease(model=model, token=secrets.token_hex(16), run=run, process=this_process(), taken=now, heard=now)

    def _tell(self, lease: Lease, ended: threading.Event) -> None:
        while not ended.wait(HEARD_SECONDS):
            # A store that is busy or full now may not be the next time.
            with suppress(StoreError):
                if not self._leases.heard(lease, self._clock()):
                    return
