"""A deployment that changes while it runs: a node comes late, one leaves for good, the server is killed."""

import ast
import os
import re
import signal
import subprocess
import time

import pytest

from flserve_app.registry import Registry
from tests.e2e.flower import BIN, Flower, wait_for
from tests.e2e.stranger import write_stranger

pytestmark = pytest.mark.slow

ROW = re.compile(r"ROW (\d+) (\d+) (\d+) (\d+) (\{.*?\})")


class Run:
    """One `flwr run` in the background, with what it has streamed so far."""

    def __init__(self, flower, project, name, config):
        self.log = flower.folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "flwr"), "run", str(project), "test", "--stream", "--run-config", config],
                cwd=flower.folder,
                env=flower.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        flower.processes[name] = self.process

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def rows(self):
        return [tuple(map(int, row[:4])) for row in ROW.findall(self.text)]

    def wait_for_row(self, accept, seconds, what):
        wait_for(lambda: any(accept(row) for row in self.rows()), seconds, f"{what}; so far {self.rows()}")


def test_what_is_damaged_in_flight_is_sent_again_in_the_same_round(tmp_path):
    orders = tmp_path / "orders"
    project = write_stranger(tmp_path / "stranger", orders, network=True)
    with Flower(tmp_path / "flower", simulation=False) as flower:
        for number in range(2):
            flower.start_node(number, 2, cache=tmp_path / f"cache-{number}")

        def run(name):
            out = flower.run("--run-config", f'store="{tmp_path / name}" rounds=3 timeout=60', project=project)
            with Registry.open(tmp_path / name, create=False) as registry:
                return out, [(version.round, version.digest) for version in registry.versions("model")]

        for order, way in {"0-1": "down", "1-2": "down", "0-3": "up"}.items():
            (orders / order).write_text(way)
        out, disturbed = run("disturbed")
        assert list(orders.iterdir()) == []
        rows = [(int(row[0]), int(row[2]), int(row[3]), ast.literal_eval(row[4])) for row in ROW.findall(out)]
        assert rows[1:] == [
            (1, 2, 0, {"full": 2, "resend": 1}),
            (2, 2, 0, {"delta": 2, "resend": 1}),
            (3, 2, 0, {"delta": 2, "resend": 1}),
        ]
        # The client's words and the server's are the same: both check before they look at anything.
        reason = r"payload of \d+ bytes is damaged or cut off: its checksum does not match"
        lines = [line for line in out.splitlines() if "flserve: partition-" in line]
        assert len(lines) == 3
        for line, client in zip(lines, (0, 1, 0), strict=True):
            assert re.search(rf"flserve: partition-{client} is served again in full: {reason}$", line.strip())

        out, undisturbed = run("undisturbed")
        assert "resend" not in out
        assert "served again" not in out
    assert disturbed == undisturbed


def test_rounds_go_on_when_nodes_come_and_go_and_a_killed_server_is_resumed(tmp_path):
    project = write_stranger(tmp_path / "stranger", tmp_path / "orders")
    store = tmp_path / "store"
    with Flower(tmp_path / "flower", simulation=False) as flower:
        for number in range(2):
            flower.start_node(number, 3, cache=tmp_path / f"cache-{number}")
        run = Run(flower, project, "run", f'store="{store}" rounds=200 timeout=20')
        run.wait_for_row(lambda row: row[0] >= 1 and row[2] == 2, 120, "a round with two clients")

        flower.start_node(2, 3, cache=tmp_path / "cache-2")
        run.wait_for_row(lambda row: row[2] == 3, 120, "a round with the node that came late")

        flower.stop("supernode-0")
        before = len(run.rows())
        wait_for(lambda: len(run.rows()) >= before + 2, 150, "two more rounds without the node that left")
        assert all(row[2] >= 2 for row in run.rows()[1:])

        servers = flower.processes_of("flwr-serverapp")
        assert servers
        for server in servers:
            os.kill(server, signal.SIGKILL)
        time.sleep(1)
        with Registry.open(store, create=False) as registry:
            last = registry.latest("model")
            assert registry.load(last).digest == last.digest
        flower.stop("run")

        resumed = Run(flower, project, "resumed", f'store="{store}" rounds={last.round + 1} timeout=20 resume=true')
        resumed.wait_for_row(lambda row: row[0] == last.round + 1, 150, "the round after the last one stored")
        assert resumed.rows()[-1][1] == last.number + 1
    with Registry.open(store, create=False) as registry:
        versions = registry.versions("model")
        assert [version.number for version in versions] == list(range(len(versions)))
        assert [registry.load(version).digest for version in versions] == [version.digest for version in versions]
