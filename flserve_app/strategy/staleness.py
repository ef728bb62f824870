"""What a reply that comes late is still worth: pure functions of arrays and numbers.

An update relative to an older version is moved onto the current one, `current + (reply - base)`, and weighs
less the more versions it lags: `(1 + lag) ** -exponent`, FedAsync's polynomial weight (Xie, Koyejo, Gupta:
Asynchronous Federated Optimization, 2019, section 5); FedBuff (Nguyen et al., 2022) takes the exponent 0.5.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord

from flserve_app.artifact import Artifact
from flserve_app.client.records import read_array, to_record
from flserve_app.errors import DeliveryError


def staleness_weight(lag: int, exponent: float) -> float:
    """Return the factor, 0 to 1, by which a reply's weight shrinks that lags by `lag` versions."""
    return float((1.0 + max(0, lag)) ** -exponent)


def rebase(reply: ArrayRecord, base: Artifact, current: Artifact) -> ArrayRecord:
    """Return a reply to `base` as one to `current`, in the reply's dtypes.

    Floating tensors are moved in float64; integer ones, which count rather than learn, are the current ones.
    A reply to the current version comes back bit for bit.

    Raises:
        DeliveryError: If the three do not have the same tensors.
    """
    if base.digest == current.digest:
        return reply
    before, now = to_record(base), to_record(current)
    if set(reply) != set(before) or set(before) != set(now):
        raise DeliveryError("a late reply has other tensors than the current version")
    return ArrayRecord({name: _moved(name, reply[name], before[name], now[name]) for name in now})


def _moved(name: str, reply: Array, before: Array, now: Array) -> Array:
    values, old, new = (read_array(name, array) for array in (reply, before, now))
    if not values.shape == old.shape == new.shape:
        raise DeliveryError(f"a late reply's {name!r} has shape {values.shape}, expected {new.shape}")
    if values.dtype.kind not in "fc" or new.dtype.kind not in "fc":
        return now
    wide = np.complex128 if "c" in (values.dtype.kind, new.dtype.kind) else np.float64
    with np.errstate(over="ignore", invalid="ignore"):  # a reply that diverged stays one
        moved = new.astype(wide) + (values.astype(wide) - old.astype(wide))
        return Array(np.asarray(moved).astype(values.dtype))
