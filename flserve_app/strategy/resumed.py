"""What a run that goes on from a stored version has to find: the same model, its clients, and what they kept.

Rules:
- `initial_arrays` of a resumed run are not used, but say which model the app has: names, shapes and dtypes must be
  those of the version, or the run ends before anybody is sent a model that it cannot load.
- What clients alone can keep (private tensors, what rounding left out of their updates) decides whether a resumed run
  ends in the digest of one that never stopped. Who lost it is counted, and what that costs is said, once.
- A client of an older release does not say what it carries: it is not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from logging import INFO, WARNING

from flwr.app import ArrayRecord
from flwr.common.logger import log

from flserve_app.artifact import Artifact, TensorSpec
from flserve_app.client.records import to_artifact
from flserve_app.errors import ConfigError
from flserve_app.fleet import EMPTY, Client, Fleet, natural
from flserve_app.store import Version
from flserve_app.text import plain

PRIVATE_LOST = "their private tensors: these begin with the initial values again, and what they reached is gone"
LEFTOVER_LOST = "what rounding left out of their updates: the run will not end in the digest of one that never stopped"
KEEP = "SuperNodes keep it with --node-config 'cache-dir=\"/a/folder\"', or FLSERVE_CACHE_DIR"


def check_same_model(initial: ArrayRecord | Artifact, stored: Artifact, version: Version) -> None:
    """Refuse to go on with a model that is not the app's.

    Args:
        initial: What the app begins with, whole.
        stored: The version, with the initial values of its private tensors.
        version: Which one it is.

    Raises:
        ArtifactError: If the app's arrays are none that an artifact can hold.
        ConfigError: If names, their order, shapes or dtypes differ.
    """
    wanted = initial if isinstance(initial, Artifact) else to_artifact(initial, like=stored)
    if found := difference(wanted, stored):
        raise ConfigError(
            f"{version.model} {version.name} is another model than initial_arrays: {found}; resume=True goes on "
            "with the same model, for another one choose another model_name"
        )


def difference(initial: Artifact, stored: Artifact) -> str:
    """Return the first thing in which a model is another one than a version is; empty if there is none."""
    return next(_differences(initial.specs, stored.specs), "")


def _differences(initial: Mapping[str, TensorSpec], stored: Mapping[str, TensorSpec]) -> Iterator[str]:
    for name, spec in initial.items():
        kept = stored.get(name)
        if kept is None:
            yield f"tensor {_named(name)} is not in the version"
        elif (_dtype(spec, kept), spec.shape) != (kept.dtype, kept.shape):
            yield f"tensor {_named(name)} is {spec.dtype} {spec.shape}, the version has {kept.dtype} {kept.shape}"
    for name in stored:
        if name not in initial:
            yield f"tensor {_named(name)} of the version is not in initial_arrays"
    for number, (name, kept_name) in enumerate(zip_longest(initial, stored), start=1):
        if name != kept_name:
            yield f"tensor {number} is {_named(name)}, the version has {_named(kept_name)} there"


def _dtype(spec: TensorSpec, kept: TensorSpec) -> str:
    # An ArrayRecord has no bfloat16: apps hold such a tensor as float32.
    return "bfloat16" if (spec.dtype, kept.dtype) == ("float32", "bfloat16") else spec.dtype


def _named(name: str) -> str:
    return repr(plain(name, 80))


def tell_resumed(
    version: Version,
    num_rounds: int,
    fleet: Fleet,
    *,
    earlier: Collection[str],
    private: str,
    untold: Collection[str],
) -> None:
    """Say what a run goes on from, that no round is left where none is, and what its clients lost.

    Args:
        version: What it goes on from.
        num_rounds: Rounds in all.
        fleet: The clients that answered their greeting.
        earlier: Identities of the clients that held the model before.
        private: Key of the private tensors' layout; empty if there are none.
        untold: Identities of the clients with updates that were aggregated and not yet settled.
    """
    model, name = version.model, version.name
    if version.round >= num_rounds:
        log(
            WARNING,
            "flserve: no round is left to do: %s is at %s, round %d, and num_rounds is %d, which counts the rounds "
            "before as well",
            *(model, name, version.round, num_rounds),
        )
        return
    log(INFO, "flserve: resuming %s at %s, round %d", model, name, version.round)
    here = {client.identity: client for client in fleet.clients.values() if client.versioned}
    mine = [here[identity] for identity in earlier if private and identity in here]
    _tell_lost(version, mine, [client for client in mine if client.keeps != private], PRIVATE_LOST)
    owed = [here[identity] for identity in untold if identity in here]
    _tell_lost(version, owed, [client for client in owed if EMPTY in client.takes], LEFTOVER_LOST)
    gone = sorted({*earlier, *untold} - here.keys(), key=natural)
    if gone:
        log(
            WARNING if private or untold else INFO,
            "flserve: resuming %s at %s: %d clients that held it before are not here (%s): what they keep waits there",
            *(model, name, len(gone), _listed(gone)),
        )


def _tell_lost(version: Version, found: Sequence[Client], losers: Sequence[Client], what: str) -> None:
    if losers:
        identities = _listed([client.identity for client in losers])
        log(
            WARNING,
            f"flserve: resuming %s at %s: %d of %d clients (%s) lost {what}. {KEEP}",
            *(version.model, version.name, len(losers), len(found), identities),
        )


def _listed(identities: Sequence[str]) -> str:
    return ", ".join(plain(identity, 40) for identity in identities[:3]) + (", ..." if len(identities) > 3 else "")
