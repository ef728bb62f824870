"""Shaped networks: the real thing where it is permitted, and what is done with `ip` and `tc` where it is not."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from flserve_app.errors import ConfigError, DeliveryError
from flserve_app.experiments import network
from flserve_app.experiments.network import LINK, carried_bytes, loopback, shaped_network

PORT = 5000
MBIT = 20.0
PAYLOAD = 1_000_000
RECEIVE = f"""
import socket
with socket.create_server(("10.0.0.1", {PORT})) as server:
    for _ in range(2):
        with server.accept()[0] as link:
            while link.recv(65536): pass
            link.sendall(bytes({PAYLOAD}))
"""
SEND = f"""
import socket, time
def seconds():
    started = time.perf_counter()
    with socket.create_connection(("10.0.0.1", {PORT})) as link:
        link.sendall(bytes({PAYLOAD}))
        link.shutdown(socket.SHUT_WR)
        while link.recv(65536): pass
    return time.perf_counter() - started
seconds()
print(seconds())
"""


def namespaces():
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True, timeout=20).stdout
    return [line.split()[0] for line in listing.splitlines() if line.startswith(f"flserve-{os.getpid()}-")]


@pytest.fixture
def shaped():
    with ExitStack() as stack:
        try:
            made = stack.enter_context(shaped_network(2, MBIT))
        except DeliveryError as error:
            pytest.skip(str(error))
        yield made
    assert namespaces() == []


def test_a_link_has_the_rate_it_was_given_both_ways(shaped):
    assert len(namespaces()) == 3
    assert not shaped.listens(PORT)
    python = [sys.executable, "-c"]
    with subprocess.Popen([*shaped.superlink, *python, RECEIVE]) as receiver:
        try:
            deadline = time.monotonic() + 60
            while not shaped.listens(PORT):
                assert time.monotonic() < deadline
            sender = [*shaped.nodes[1], *python, SEND]
            seconds = float(subprocess.run(sender, capture_output=True, check=True, timeout=120).stdout)
            receiver.wait(60)
        finally:
            receiver.kill()
    least = 2 * 8 * PAYLOAD / (MBIT * 1e6)
    assert least <= seconds < 5 * least
    counters = [*shaped.superlink, "cat", "/proc/self/net/dev"]
    told = subprocess.run(counters, capture_output=True, text=True, check=True, timeout=20).stdout
    assert [name in told for name in (f"{LINK}0:", f"{LINK}1:", f"{LINK}2:")] == [True, True, False]


def test_one_namespace_cannot_reach_out(shaped):
    route = [*shaped.nodes[0], "ip", "route", "get", "192.0.2.1"]
    assert subprocess.run(route, capture_output=True, timeout=20).returncode != 0


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Commands that note how they are called, and fail where a word of `tmp_path/refused` stands in that."""
    for name in ("ip", "tc", "ss"):
        command = tmp_path / name
        command.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n'
            f'case "$*" in *"$(cat {tmp_path}/refused)"*) echo "Operation not permitted" >&2; exit 1;; esac\n'
        )
        command.chmod(0o755)
    (tmp_path / "refused").write_text("nothing of this")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: str(tmp_path / name))
    return tmp_path


def names(folder, verb):
    calls = [line.split() for line in (folder / "calls").read_text().splitlines()]
    return [call[-1] for call in calls if call[1:3] == ["netns", verb]]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, DeliveryError("broken")])
def test_what_was_made_is_removed_whatever_happens_inside(tools, failure):
    with pytest.raises((KeyboardInterrupt, DeliveryError)), shaped_network(2, MBIT):
        raise failure
    assert len(names(tools, "add")) == 3
    assert names(tools, "delete") == names(tools, "add")[::-1]


@pytest.mark.parametrize("step", ["netns add", "type veth", "tbf"])
def test_where_it_is_not_permitted_the_step_is_named_and_nothing_stays(tools, step):
    (tools / "refused").write_text(step)
    with (
        pytest.raises(DeliveryError, match=rf"^a shaped network needs Linux, root.*{step}.*: Operation not permitted$"),
        shaped_network(2, MBIT),
    ):
        raise AssertionError
    assert set(names(tools, "delete")) == set(names(tools, "add"))


def test_without_its_tools_it_says_which_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == "tc" else "/bin/true")
    with pytest.raises(DeliveryError, match=r"iproute2: there is no command 'tc'$"), shaped_network(1, MBIT):
        raise AssertionError


@pytest.mark.parametrize(("nodes", "mbit"), [(0, MBIT), (65, MBIT), (2, 0.0), (2, float("nan")), (2, 1001.0)])
def test_what_is_out_of_range_is_refused(tools, nodes, mbit):
    with pytest.raises(ConfigError, match="found"), shaped_network(nodes, mbit):
        raise AssertionError
    assert not (tools / "calls").exists()


def test_bytes_of_the_links_are_told_from_those_of_other_devices(tmp_path):
    counters = tmp_path / "dev"
    figures = "{} 1 0 0 0 0 0 0 {} 1 0 0 0 0 0 0"
    devices = {"lo": (5, 5), f"{LINK}0": (100, 20), f"{LINK}11": (1000, 3)}
    lines = [f"  {name}: {figures.format(*both)}" for name, both in devices.items()]
    counters.write_text("\n".join(["Inter-|   Receive", " face |bytes", *lines]) + "\n")
    assert carried_bytes(counters) == 1123
    with pytest.raises(DeliveryError, match="No such file"):
        carried_bytes(tmp_path / "none")


def test_loopback_needs_no_tools(monkeypatch):
    monkeypatch.setattr(network, "_tool", None)
    here = loopback(3)
    assert here.nodes == ((), (), ())
    assert not here.listens(1)
