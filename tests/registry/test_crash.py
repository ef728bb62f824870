"""What a crash at any point of a publication leaves: the old state or the new one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flserve_app.registry import Registry
from flserve_app.store import Database, DirBlobs
from tests.registry.samples import drifting

PUBLISH = """
import os, signal, sys
from pathlib import Path
from flserve_app.registry import Registry
from flserve_app.store import Database, DirBlobs
from tests.registry.samples import drifting

store, when = Path(sys.argv[1]), sys.argv[2]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class DyingBlobs:
    def __init__(self, inner):
        self.inner = inner

    def put(self, data):
        if when == "before the blob":
            die()
        if when == "within the blob":
            (store / "blobs" / ".tmp-half").write_bytes(data[: len(data) // 2])
            die()
        digest = self.inner.put(data)
        if when == "after the blob":
            die()
        return digest

    def __getattr__(self, name):
        return getattr(self.inner, name)

if when.startswith("statement"):
    from sqlalchemy import Engine, event
    left = [int(when.split()[1])]

    @event.listens_for(Engine, "before_cursor_execute")
    def count(connection, cursor, statement, *_):
        if statement.split()[0] in ("INSERT", "UPDATE", "DELETE"):
            left[0] -= 1
            if left[0] == 0:
                die()

    @event.listens_for(Engine, "commit")
    def commit(connection):
        if left[0] > 0 and connection.get_execution_options().get("flserve_writes"):
            die()

registry = Registry(Database.at(store / "catalog.sqlite"), DyingBlobs(DirBlobs(store / "blobs")))
registry.publish("m", drifting(3)[2], parent=1, round=2, codec="lossless")
if when == "after the commit":
    die()
"""


def publish_and_die(store: Path, when: str) -> int:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run([sys.executable, "-c", PUBLISH, str(store), when], env=environment, check=False).returncode


@pytest.mark.parametrize(
    ("when", "published"),
    [
        ("before the blob", False),
        ("within the blob", False),
        ("after the blob", False),
        *[(f"statement {number}", False) for number in (1, 3, 6)],
        ("statement 99 and commit", False),
        ("after the commit", True),
    ],
)
def test_a_killed_publication_leaves_the_old_state_or_the_new(place, when, published):
    artifacts = drifting(3)
    with Registry.open(place) as registry:
        for number, artifact in enumerate(artifacts[:2]):
            registry.publish("m", artifact, parent=number - 1 if number else None, round=number, codec="lossless")
    assert publish_and_die(place, when) == -signal.SIGKILL
    with Registry.open(place, create=False) as registry:
        versions = registry.versions("m")
        assert len(versions) == (3 if published else 2)
        assert registry.labels("m") == {"latest": versions[-1].number}
        assert [registry.load(version) for version in versions] == artifacts[: len(versions)]
        again = registry.publish("m", artifacts[2], parent=1, round=2, codec="lossless")
        assert again.number == len(versions)
        assert registry.load(again) == artifacts[2]
        named = {edge.blob for version in registry.versions("m") for edge in registry.chain(version.digest)}
    assert named == set(DirBlobs(place / "blobs"))
    Database.at(place / "catalog.sqlite").close()
