"""Real Flower processes for tests: a SuperLink, SuperNodes and `flwr run`, all on loopback.

Every process is started in a session of its own and ended with all of its children; logs are kept beside the
test's files.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.keys import make_certificates, make_node_key

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**extra: str) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FLSERVE_CACHE_DIR")}
    return env | {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{env.get('PATH', '')}",
        **extra,
    }


def wait_for(condition, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds} s")
        time.sleep(0.1)


def listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Flower:
    """A SuperLink with its own home and database, and the SuperNodes that belong to it."""

    folder: Path
    simulation: bool = True
    secure: bool = False
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Flower:
        self.home = self.folder / "flwr-home"
        self.home.mkdir(parents=True)
        self.certificates = make_certificates(self.folder) if self.secure else {}
        trust = f'root-certificates = "{self.certificates["ca"]}"' if self.secure else "insecure = true"
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n\n[superlink.test]\naddress = "127.0.0.1:{self.port}"\n{trust}\n'
        )
        self.start_superlink()
        return self

    def start_superlink(self) -> None:
        arguments = ["--simulation"] if self.simulation else []
        if self.secure:
            arguments += [
                f"--ssl-ca-certfile={self.certificates['ca']}",
                f"--ssl-certfile={self.certificates['cert']}",
                f"--ssl-keyfile={self.certificates['key']}",
                "--enable-supernode-auth",
            ]
        else:
            arguments.append("--insecure")
        self.start(
            "superlink",
            "flower-superlink",
            "--host=127.0.0.1",
            f"--port={self.port}",
            "--disable-runtime-dependency-installation",
            f"--database={self.folder / 'state.db'}",
            *arguments,
        )
        wait_for(lambda: listens(self.port), 60, "the SuperLink's port")

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self.processes)):
            self.stop(name)
        for process in self.processes_of(""):
            os.kill(process, signal.SIGKILL)

    def processes_of(self, word: str) -> list[int]:
        """Return the ids of this deployment's processes whose command line has a word."""
        mark, found = f"FLWR_HOME={self.home}\0".encode(), []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and mark in (folder / "environ").read_bytes() + b"\0":
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if word in command and int(folder.name) != os.getpid():
                        found.append(int(folder.name))
            except (ProcessLookupError, FileNotFoundError, PermissionError):
                continue
        return found

    @property
    def env(self) -> dict[str, str]:
        return environment(FLWR_HOME=str(self.home), FLSERVE_OUTPUTS=str(self.folder))

    def start(self, name: str, *command: str, **env: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                cwd=self.folder,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_node(self, number: int, of: int, cache: Path | None = None, **env: str) -> None:
        config = f"partition-id={number} num-partitions={of}"
        if cache is not None:
            config += f' cache-dir="{cache}"'
        trust = ["--insecure"]
        if self.secure:
            trust = [f"--root-certificates={self.certificates['ca']}"]
            trust.append(f"--auth-supernode-private-key={self.node_key(number)}")
        self.start(
            f"supernode-{number}",
            "flower-supernode",
            *trust,
            f"--superlink=127.0.0.1:{self.port}",
            f"--port={free_port()}",
            f"--node-config={config}",
            **env,
        )

    def node_key(self, number: int) -> Path:
        """Return the private key of a node, whose public key was registered with the SuperLink."""
        private = self.folder / f"node-{number}"
        if not private.exists():
            private, public = make_node_key(self.folder, private.name)
            self.flwr("supernode", "register", str(public), "test")
        return private

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                continue
        process.wait(timeout=15)

    def run(self, *arguments: str, project: Path = PROJECT, timeout: float = 300) -> str:
        """Run `flwr run` on a project and return what it streamed."""
        return self.flwr("run", str(project), "test", "--stream", *arguments, timeout=timeout)

    def flwr(self, *arguments: str, timeout: float = 60) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout + done.stderr
