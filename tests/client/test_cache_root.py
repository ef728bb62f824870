"""Which cache directory is used, as the file system has it: other users', closed ones, none at all."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.client.cache import CacheDirectory
from flserve_app.client.cache_root import cache_root
from flserve_app.client.held import STATE_BYTES, Held
from flserve_app.client.reference import Reference
from tests.client.contexts import artifact, context

LARGE = Artifact({"w": np.arange(STATE_BYTES // 8 + 1, dtype=np.float64)})
posix = pytest.mark.skipif(os.name != "posix", reason="users and modes are a matter of POSIX")
root_only = pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="plays two users")

# What another user's client does with a cache directory: what it says, whether it holds what it installed.
SCRIPT = """
import encodings.ascii, os, sys
sys.path.insert(0, sys.argv[3])
import numpy as np
from flwr.app import Context, RecordDict
from flserve_app.artifact import Artifact
from flserve_app.client.held import Held
from flserve_app.client.reference import Reference
os.setgroups([])
os.setgid(int(sys.argv[-1] if len(sys.argv) > 4 else sys.argv[2]))
os.setuid(int(sys.argv[2]))
os.umask(0o002 if len(sys.argv) > 4 else 0o022)
made = Artifact({"w": np.arange(4.0)})
config = {"cache-dir": sys.argv[1], "partition-id": int(sys.argv[2])}
for run in (1, 2):
    held = Held(Context(run_id=run, node_id=2, node_config=config, state=RecordDict(), run_config={}))
    print("held", made.digest in held.digests())
    held.install(Reference(model="m", version=0, digest=made.digest), made)
    print("loaded", held.load(made.digest) == made)
"""


def other_user(path, user, group=None):
    package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    command = [sys.executable, "-c", SCRIPT, str(path), str(user), package, *([str(group)] if group else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    return [line for line in done.stdout.split("\n") if line[:4] in ("held", "load")], done.stdout + done.stderr


def opened(tmp_path_factory, mode):
    """Return a folder that any user can reach."""
    path = tmp_path_factory.mktemp("shared")
    for folder in path.parents:  # all that are pytest's: two of them, three in a worker's process
        if "pytest-of-" not in str(folder):
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    path.chmod(mode)
    return path


KEPT = ["held False", "loaded True", "held True", "loaded True"]


@root_only
@pytest.mark.slow
def test_a_cache_of_two_users_is_one_each_and_that_is_said_once(tmp_path_factory):
    path = opened(tmp_path_factory, 0o1777)
    found, said = other_user(path, 12345)
    assert found == KEPT
    assert "WARNING" not in said
    found, said = other_user(path, 12346)
    assert found == KEPT, "what it installed, it holds in its next run"
    assert "keeps its versions in" in said
    assert "belongs to another user" in said
    assert stat.S_IMODE((path / "user-12346").stat().st_mode) == 0o700


@root_only
@pytest.mark.slow
def test_a_cache_of_a_group_is_shared(tmp_path_factory):
    path = opened(tmp_path_factory, 0o2775)
    os.chown(path, -1, 4321)
    first, said = other_user(path, 12345, 4321)
    second, more = other_user(path, 12346, 4321)
    assert first == second == KEPT
    assert "WARNING" not in said + more
    assert len(list((path / "blobs").iterdir())) == 1
    assert not list(path.glob("user-*"))


@root_only
@pytest.mark.slow
def test_a_cache_that_only_its_owner_may_write_leaves_the_others_their_memory(tmp_path_factory):
    path = opened(tmp_path_factory, 0o777)
    assert other_user(path, 12345)[0] == KEPT
    path.chmod(0o755)
    found, said = other_user(path, 12346)
    assert found == ["held False", "loaded True", "held False", "loaded True"]
    assert said.count("keeps its version in memory") == 2, "once a run"


@posix
@pytest.mark.parametrize(
    "named",
    [
        lambda tmp_path: "x" * 300,
        lambda tmp_path: str(tmp_path / ("y" * 300) / "z"),
        lambda tmp_path: "/".join(["a" * 200] * 40),
        lambda tmp_path: "a\0b",
        lambda tmp_path: "~nobody-of-that-name/cache",
        lambda tmp_path: "/dev/null/cache",
        lambda tmp_path: "/proc/nothing/cache",
    ],
)
@pytest.mark.parametrize("partitioned", [True, False])
def test_a_directory_that_cannot_be_is_one_line_and_memory(tmp_path, caplog, named, partitioned):
    config = {"cache-dir": named(tmp_path), **({"partition-id": 1} if partitioned else {})}
    where = context(**config)
    for made in (artifact(), LARGE):
        held = Held(where)
        held.install(Reference(model="m", version=0, digest=made.digest), made)
        assert Held(where).load(made.digest) == made
        held.put_private("m", [b"mine"], "11" * 32)
        assert bytes(Held(where).private("m", "11" * 32)) == b"mine"
    lines = [record.getMessage() for record in caplog.records]
    assert any("keeps its version in memory" in line for line in lines)
    assert len(lines) == len(set(lines)) <= 3
    assert all(line.isprintable() for line in lines)


def test_without_a_home_a_node_keeps_what_it_holds_in_memory(monkeypatch, caplog):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    where = context(node_id=7)
    held = Held(where)
    assert held.identity == "node-7"
    held.install(Reference(model="m", version=0, digest=LARGE.digest), LARGE)
    assert Held(where).load(LARGE.digest) == LARGE
    assert "keeps its version in memory" in caplog.text


@root_only
@pytest.mark.parametrize("mode", [0o000, 0o600, 0o300])
def test_a_directory_that_may_not_be_entered_is_not_used(tmp_path, monkeypatch, mode):
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "access", lambda path, wanted: mode >> 6 & wanted == wanted)
    assert cache_root({"cache-dir": str(tmp_path / "cache")}, 1, 2).path is None


@posix
@pytest.mark.parametrize("planted", ["folder", "link", "open"])
def test_a_temporary_directory_that_is_not_ones_own_is_not_even_read(tmp_path, monkeypatch, planted):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = tmp_path / f"flserve-{os.getuid()}"
    if planted == "link":
        (tmp_path / "elsewhere").mkdir()
        mine.symlink_to(tmp_path / "elsewhere")
    else:
        mine.mkdir()
        mine.chmod(0o777 if planted == "open" else 0o755)
    if planted == "folder":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        mine.rename(tmp_path / "flserve-12345")
    found = cache_root({"partition-id": 0}, 7, 1)
    assert found.path is None
    assert "is a link, belongs to somebody else or may be written to by others" in found.trouble


def test_a_file_system_without_locks_is_one_line_and_memory(tmp_path, monkeypatch, caplog):
    class Unlocked:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            raise NotImplementedError("FileSystem does not appear to support flock")

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("flserve_app.client.cache.FileLock", Unlocked)
    where = context(**{"partition-id": 1, "cache-dir": str(tmp_path)})
    Held(where).install(Reference(model="m", version=0, digest=LARGE.digest), LARGE)
    assert Held(where).load(LARGE.digest) == LARGE
    assert "cannot be locked: FileSystem does not appear to support flock" in caplog.text
    assert CacheDirectory(tmp_path, "partition-1").references() == ()
