"""Where a SuperLink and its SuperNodes run: on loopback, or each in a network namespace with a slow link.

A shaped network is Linux's own: a namespace for the SuperLink and one for each node, a virtual cable between them, and
a token bucket at both ends of it, so that each direction of each link has the rate to itself. There is no other way
in or out. Bandwidth is all that is scarce: packets are not delayed otherwise. The rate is that of frames; of
20 Mbit/s about 19.1 are left for what TCP carries.

Namespaces are named after the process that made them, and go with the block.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from flserve_app.errors import ConfigError, DeliveryError

MOST_NODES = 64
LEAST_MBIT, MOST_MBIT = 0.1, 1000.0
LINK = "flnode"  # of the interfaces in the SuperLink's namespace, with the node's number behind it
_COUNTERS = Path("/proc/self/net/dev")
_ADDRESS = "10.0.0.1"
_TOOLS = ("ip", "tc", "ss")  # of iproute2
_SYSTEM = "/usr/sbin:/sbin"  # where they are, and where not every user looks
_COMMAND_SECONDS = 20.0
_NEEDS = "a shaped network needs Linux, root's rights and iproute2"

Prefix = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Where processes run.

    Attributes:
        address: IPv4 address of the SuperLink, for all.
        superlink: What a command begins with to run beside the SuperLink; empty for here.
        nodes: Likewise for each SuperNode.
    """

    address: str
    superlink: Prefix
    nodes: tuple[Prefix, ...]

    def listens(self, port: int) -> bool:
        """Whether anything listens on a port there."""
        if not self.superlink:
            with closing(socket.socket()) as probe:
                probe.settimeout(0.5)
                return probe.connect_ex((self.address, port)) == 0
        # It cannot be reached from here.
        return bool(_call(*self.superlink, _tool("ss"), "-Htln", f"sport = :{port}").strip())


def loopback(nodes: int) -> Network:
    """Return this machine's loopback."""
    return Network(address="127.0.0.1", superlink=(), nodes=((),) * nodes)


@contextmanager
def shaped_network(nodes: int, mbit: float) -> Iterator[Network]:
    """Make namespaces and links for the time of a block.

    Args:
        nodes: Number of nodes, each with a link to the SuperLink.
        mbit: Rate of each link and direction, 10**6 bits a second.

    Raises:
        ConfigError: If there are too few or too many nodes, or the rate is out of its range.
        DeliveryError: If it is not permitted here, or the tools are missing.
    """
    if not 1 <= nodes <= MOST_NODES:
        raise ConfigError(f"a shaped network has 1 to {MOST_NODES} nodes, found {nodes}")
    if not LEAST_MBIT <= mbit <= MOST_MBIT:
        raise ConfigError(f"a link has {LEAST_MBIT:g} to {MOST_MBIT:g} Mbit/s, found {mbit:g}")
    ip, tc, _ = (_tool(name) for name in _TOOLS)
    hub = f"flserve-{os.getpid()}-{secrets.token_hex(2)}"
    with ExitStack() as made:
        _namespace(made, ip, hub)
        _call(ip, "-n", hub, "address", "add", f"{_ADDRESS}/32", "dev", "lo")
        for number in range(nodes):
            leaf, address, near = f"{hub}-{number}", f"10.0.1.{number + 1}", f"{LINK}{number}"
            _namespace(made, ip, leaf)
            _call(ip, "link", "add", near, "netns", hub, "type", "veth", "peer", "name", "uplink", "netns", leaf)
            _call(ip, "-n", leaf, "address", "add", f"{address}/32", "dev", "uplink")
            for place, end, other in ((hub, near, address), (leaf, "uplink", _ADDRESS)):
                _call(ip, "-n", place, "link", "set", end, "up")
                _call(ip, "-n", place, "route", "add", other, "dev", end)
                bucket = ("tbf", "rate", f"{mbit:f}mbit", "burst", "32kbit", "latency", "400ms")
                _call(tc, "-n", place, "qdisc", "add", "dev", end, "root", *bucket)
        inside = tuple((ip, "netns", "exec", f"{hub}-{number}") for number in range(nodes))
        yield Network(address=_ADDRESS, superlink=(ip, "netns", "exec", hub), nodes=inside)


def carried_bytes(counters: Path = _COUNTERS) -> int:
    """Return the bytes of frames that the links of a shaped network carried, both ways; 0 if this is not its SuperLink.

    Raises:
        DeliveryError: If this system does not tell.
    """
    try:
        lines = counters.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise DeliveryError(f"the bytes on the links cannot be read from {counters}: {error.strerror}") from error
    links = (line.split(":") for line in lines if line.strip().startswith(LINK))
    return sum(int(figures.split()[0]) + int(figures.split()[8]) for _, figures in links)


def _namespace(made: ExitStack, ip: str, name: str) -> None:
    # First said that it is to go, then made: an interrupt in between leaves nothing.
    made.callback(_remove, ip, name)
    _call(ip, "netns", "add", name)
    _call(ip, "-n", name, "link", "set", "lo", "up")


def _remove(ip: str, name: str) -> None:
    """Remove a namespace, which may not be there; its links go with it."""
    subprocess.run([ip, "netns", "delete", name], capture_output=True, check=False, timeout=_COMMAND_SECONDS)


def _tool(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{_SYSTEM}")
    if found is None:
        raise DeliveryError(f"{_NEEDS}: there is no command {name!r}")
    return found


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeliveryError(f"{_NEEDS}: {_shown(command)} failed: {error}") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or "it said nothing"
        raise DeliveryError(f"{_NEEDS}: {_shown(command)} failed: {said[:300]}")
    return done.stdout


def _shown(command: Sequence[str]) -> str:
    return f"`{' '.join([Path(command[0]).name, *command[1:]])}`"
