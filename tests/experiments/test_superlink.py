import os
import subprocess

import pytest

from flserve_app.errors import DeliveryError
from flserve_app.experiments import superlink
from flserve_app.experiments.network import loopback
from flserve_app.experiments.superlink import NAME, flower_command, own_superlink


@pytest.mark.slow
def test_it_serves_flowers_commands_and_is_gone_afterwards(tmp_path):
    with own_superlink(tmp_path) as environment:
        assert environment["FLWR_HOME"] == str(tmp_path / "flwr-home")
        listing = [flower_command("flwr"), "list", NAME]
        done = subprocess.run(listing, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        port = int((tmp_path / "flwr-home" / "config.toml").read_text().split("127.0.0.1:")[1].split('"')[0])
        assert loopback(0).listens(port)
    assert not loopback(0).listens(port)
    assert "FLWR_HOME" not in os.environ or os.environ["FLWR_HOME"] != environment["FLWR_HOME"]


def test_one_that_does_not_start_is_an_error_with_its_last_words(tmp_path, monkeypatch):
    command = tmp_path / "flower-superlink"
    command.write_text("#!/bin/sh\necho the port is taken\nexit 3\n")
    command.chmod(0o755)
    monkeypatch.setattr(superlink, "flower_command", lambda name: str(tmp_path / name))
    with (
        pytest.raises(DeliveryError, match=r"did not start at 127\.0\.0\.1:\d+: the port is taken"),
        own_superlink(tmp_path),
    ):
        raise AssertionError
