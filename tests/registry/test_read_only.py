"""A store that cannot be written can be looked at."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from contextlib import closing
from pathlib import Path

import pytest

from flserve_app.errors import StoreError
from flserve_app.registry import Registry, Retention, collect, export_bundle, verify
from flserve_app.registry.named import load_named
from flserve_app.store.schema import HEAD
from tests.registry.samples import drifting

NOBODY = 65534


@pytest.fixture
def store():
    """A store below a folder that everybody may enter; pytest's own are root's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="flserve-test-"))
    folder.chmod(0o755)
    with Registry.open(folder / "a %20b#c") as registry:
        for number, artifact in enumerate(drifting(3)):
            registry.publish("m", artifact, parent=number - 1 if number else None, round=number, codec="full")
    yield folder / "a %20b#c"
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def protect(store):
    for path in [*store.rglob("*"), store]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def in_child(function, *arguments):
    """Call a function as somebody who may not write what root owns; what fails there fails here."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setuid(NOBODY)
            function(*arguments)
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def look(store):
    with Registry.open(store, create=False) as registry:
        versions = registry.versions("m")
        assert [registry.load(version) for version in versions] == drifting(3)
        assert registry.labels("m") == {"latest": 2}
        assert verify(registry).clean
        with pytest.raises(StoreError, match="cannot be written"):
            registry.publish("m", drifting(1)[0], round=3, codec="full")
        with pytest.raises(StoreError, match="Permission denied"):
            registry.publish("m", drifting(4)[3], round=3, codec="full")
        with pytest.raises(StoreError, match="cannot be written: it or its folder is read-only"):
            collect(registry, Retention())
        assert collect(registry, Retention(keep=1), dry_run=True).kept == 1
        with pytest.raises(StoreError, match="Permission denied"):
            export_bundle(registry, versions, store / "x.flb")


def test_a_store_that_cannot_be_written_is_read(store):
    protect(store)
    before = sorted(path.name for path in store.iterdir())
    in_child(look, store)
    assert sorted(path.name for path in store.iterdir()) == before


def test_a_store_that_somebody_else_has_open_is_read_with_what_he_wrote_last(store):
    with Registry.open(store) as writer:
        writer.add_metrics("m", 0, {"loss": 1.0})
        assert (store / "catalog.sqlite-wal").stat().st_size > 0
        protect(store)

        def look_at_metrics():
            with Registry.open(store, create=False) as registry:
                assert registry.versions("m")[0].metrics == {"loss": 1.0}

        in_child(look_at_metrics)


def test_changes_that_only_the_log_has_are_not_overlooked(store):
    with Registry.open(store) as writer:
        writer.add_metrics("m", 0, {"loss": 1.0})
        for name in ("catalog.sqlite", "catalog.sqlite-wal"):
            shutil.copy(store / name, store.parent / name)
    for name in ("catalog.sqlite", "catalog.sqlite-wal"):
        shutil.copy(store.parent / name, store / name)
    protect(store)

    def refused():
        with pytest.raises(StoreError, match=r"cannot be written, and whoever wrote it last was cut off"):
            Registry.open(store, create=False)

    in_child(refused)


def test_an_older_catalog_that_cannot_be_moved_is_refused(store):
    with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    protect(store)

    def refused():
        with pytest.raises(StoreError, match=rf"has revision '0001', this flserve reads '{HEAD}', and the store"):
            Registry.open(store, create=False)

    in_child(refused)


PUBLISH = """
import sys
from flserve_app.registry import Registry
from tests.registry.samples import drifting

for turn in range(3):
    with Registry.open(sys.argv[1]) as registry:
        for number, artifact in enumerate(drifting(15, size=50, seed=turn + 1)):
            registry.publish("m", artifact, parent=registry.latest("m").number, round=number, codec="full")
"""


def published(store):
    """Return a process that publishes, closes and opens again."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", PUBLISH, str(store)], env=environment, stdout=subprocess.PIPE)


def follow(store, running):
    """Read on while somebody else publishes; every state that is seen is whole, and the last one is the last."""
    seen = []
    with Registry.open(store, create=False) as early:
        assert early.latest("m").number == 2
        while running():
            with Registry.open(store, create=False) as late:
                for registry in (early, late):
                    ((version, artifact),) = load_named(registry, "m", "latest")
                    assert artifact.digest == version.digest
                    found = registry.catalog.history("m")
                    assert [one.number for one in found.versions] == list(range(found.total))
                    assert found.labels == {"latest": found.total - 1}
                    seen.append(found.total)
        assert seen == sorted(seen)
        assert len(set(seen)) > 3
        assert early.latest("m").number == 47
        assert verify(early).clean


def test_who_cannot_write_sees_what_others_publish(store):
    """He has it open from before, and may not make the files that SQLite wants beside it."""
    store.parent.chmod(0o755)
    for path in [store, *store.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with published(store) as process:
        os.set_blocking(process.stdout.fileno(), False)
        in_child(follow, store, lambda: process.stdout.read() is None)  # at its end there is something: nothing
    assert process.returncode == 0


MOUNTED = """
import subprocess, sys
from pathlib import Path
from tests.registry.test_read_only import follow, published

store, mounted = map(Path, sys.argv[1:])
for command in (["mount", "--bind", store, mounted], ["mount", "-o", "remount,ro,bind", mounted]):
    if subprocess.run(command, capture_output=True).returncode:
        sys.exit(77)
with published(store) as process:
    follow(mounted, lambda: process.poll() is None)
sys.exit(process.returncode)
"""


@pytest.mark.slow
def test_a_read_only_mount_shows_what_is_published_outside(store, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mounts of one's own here")
    command = [unshare, "-m", sys.executable, "-c", MOUNTED, str(store), str(tmp_path)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("nothing can be mounted here")
    assert (done.returncode, done.stderr) == (0, "")
