"""Who a client is, for as long as its data stays where it is.

A node's `partition-id` names it (every simulated node has one, and a SuperNode may be given one);
otherwise a random id is made once and kept in the client's cache directory, so that it survives restarts.
Flower's own node id does not serve: it is random in each simulated run.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from flserve_app.client.files import write_atomically
from flserve_app.disk.regular import read_regular
from flserve_app.errors import StoreError
from flserve_app.text import is_identity


def identity(node_config: Mapping[str, object], directory: Path | None, node_id: int) -> str:
    """Return the client's stable name.

    Args:
        node_config: The node's configuration; `partition-id` is used if it is there.
        directory: The client's cache directory, or None if it has none.
        node_id: Flower's id of the node: the last resort, good for one run of the node.
    """
    partition = node_config.get("partition-id")
    if partition is not None and is_identity(str(partition)) and is_identity(named := f"partition-{partition}"):
        return named
    if directory is None:
        return f"node-{node_id}"
    return _kept(directory / "identity")


def _kept(path: Path) -> str:
    try:
        with suppress(FileNotFoundError):
            found = read_regular(path).decode().strip()
            if is_identity(found):
                return found
        made = _folder_left(path.parent) or f"client-{secrets.token_hex(8)}"
        write_atomically(path, made.encode(), forced=True)  # it says where private tensors lie
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"client identity at {path} cannot be read or kept: {error}") from error
    return made


def _folder_left(directory: Path) -> str:
    """Return the name that is left of an identity whose file was lost: the only such client's; empty without one."""
    names = [path.name for path in (directory / "clients").glob("client-*") if is_identity(path.name)]
    return names[0] if len(names) == 1 else ""
