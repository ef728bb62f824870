"""A cache directory gets smaller again: after kills, by age, by bytes; and never by private tensors."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.client import files
from flserve_app.client import sweep as module
from flserve_app.client.cache import CacheDirectory
from flserve_app.client.held import Held
from flserve_app.client.policy import SitePolicy
from flserve_app.client.reference import Reference
from tests.client.contexts import artifact, context

DAY = 24 * 3600


def install(directory, made, model="m", federation=""):
    directory.install(Reference(model=model, version=0, digest=made.digest, federation=federation), made)


def large(seed, values=1 << 14):
    return Artifact({"w": np.random.default_rng(seed).normal(size=values)})


def blobs(root):
    return {path.name for path in (root / "blobs").iterdir()}


def aged(path, days):
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def nbytes(root):
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def test_temporary_files_of_processes_that_are_gone_go_with_the_next_version(tmp_path):
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    kept = CacheDirectory(tmp_path, "a")
    install(kept, artifact(0))
    mine, others = tmp_path / "clients" / "a", tmp_path / "clients" / "b"
    others.mkdir()
    here = files._here()
    named = f".new-{here}-{int(gone.stdout)}-x"
    lost = [folder / named for folder in (tmp_path, mine, others, tmp_path / "blobs" / artifact(0).digest)]
    busy = [folder / f".new-{here}-{os.getpid()}-x" for folder in (mine, others)]
    # A number says nothing of who runs in another container, or wrote before places were in the name.
    busy += [mine / f".new-{'0' * 12}-{int(gone.stdout)}-x", others / f".new-{int(gone.stdout)}-x"]
    old = [folder / ".new-abcdef" for folder in (tmp_path, others)]
    for path in (*lost, *busy, *old):
        path.write_bytes(bytes(1000))
    for path in old:
        aged(path, 1)
    install(kept, artifact(0))
    assert not any(path.exists() for path in (*lost, *old))
    assert all(path.exists() for path in busy), "somebody may be writing it"


@pytest.mark.skipif(os.name != "posix", reason="kills")
def test_a_cache_is_no_larger_after_kills(tmp_path):
    script = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from flserve_app.artifact import Artifact\n"
        "from flserve_app.client.cache import CacheDirectory\n"
        "from flserve_app.client.reference import Reference\n"
        "kept = CacheDirectory(Path(sys.argv[1]), 'a')\n"
        "print('ready', flush=True)\n"
        "for seed in range(10**6):\n"
        "    made = Artifact({'w': np.random.default_rng(seed + int(sys.argv[2])).normal(size=1 << 17)})\n"
        "    kept.install(Reference(model='m', version=seed, digest=made.digest), made)\n"
        "    kept.private.put('m', 'aa' * 32, [bytes(1 << 20)])\n"
    )
    for kill in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(kill * 1000)], stdout=subprocess.PIPE
        ) as child:
            child.stdout.readline()
            time.sleep(0.05 + 0.037 * kill)
            child.send_signal(signal.SIGKILL)
    install(CacheDirectory(tmp_path, "a"), artifact(0))
    assert not list(tmp_path.rglob(".new-*"))
    assert blobs(tmp_path) == {artifact(0).digest}
    assert nbytes(tmp_path) < (1 << 20) + 20_000, "one version and one private part"


def test_versions_that_nobody_asked_for_go_by_age(tmp_path):
    a, b = CacheDirectory(tmp_path, "a"), CacheDirectory(tmp_path, "b")
    install(a, artifact(0), "old")
    install(b, artifact(1), "old")
    a.put_beside("old", [b"beside"])
    a.private.put("old", "11" * 32, [b"mine"])
    for path in tmp_path.rglob("*.json"):
        aged(path, 31)
    install(a, artifact(2), "new")
    assert blobs(tmp_path) == {artifact(2).digest}
    assert [reference.model for reference in a.references()] == ["new"]
    assert a.beside("old") is None
    assert bytes(a.private.get("old", "11" * 32)) == b"mine"
    assert not (tmp_path / "clients" / "b").exists()


def test_a_version_that_is_used_does_not_age(tmp_path):
    a = CacheDirectory(tmp_path, "a")
    install(a, artifact(0))
    for path in tmp_path.rglob("*.json"):
        aged(path, 31)
    install(a, artifact(0))
    install(a, artifact(1), "other")
    assert blobs(tmp_path) == {artifact(0).digest, artifact(1).digest}


def test_all_versions_together_are_bounded_and_the_oldest_go_first(tmp_path):
    policy = SitePolicy(cache_bytes=3 * large(0).nbytes)
    a = CacheDirectory(tmp_path, "a", policy)
    for seed in range(6):
        install(a, large(seed), f"m{seed}")
        aged(max(tmp_path.rglob("*.json"), key=lambda path: path.stat().st_mtime_ns), 1 - seed / 10)
    assert blobs(tmp_path) == {large(seed).digest for seed in (4, 5)} | ({large(3).digest} & blobs(tmp_path))
    assert large(5).digest in blobs(tmp_path)
    assert nbytes(tmp_path / "blobs") <= policy.cache_bytes
    huge = large(9, 1 << 17)
    install(a, huge, "huge")
    assert blobs(tmp_path) == {huge.digest}, "what is in use stays, however large"


def test_a_bound_of_one_client_is_none_for_its_neighbours(tmp_path):
    neighbour = CacheDirectory(tmp_path, "b")
    for seed in range(3):
        install(neighbour, large(seed), f"m{seed}")
    for path in tmp_path.rglob("*.json"):
        aged(path, 3)
    a = CacheDirectory(tmp_path, "a", SitePolicy(cache_bytes=1, cache_days=1, private_days=1))
    neighbour.private.put("m0", "11" * 32, [b"mine"])
    aged(next(tmp_path.rglob("*.private")), 3)
    said = {
        a.install(Reference(model=f"n{seed}", version=0, digest=large(seed).digest), large(seed)) for seed in (0, 9)
    }
    assert len(neighbour.references()) == 3
    assert neighbour.private.get("m0", "11" * 32) is not None
    assert [each.digest for each in a.references()] == [large(0).digest, large(9).digest], "one costs no room"
    assert said == {f"shares {tmp_path}, which is over its cache-bytes 1: what other clients hold there stays"}
    assert all(neighbour.load(large(seed).digest) == large(seed) for seed in range(3))


def test_what_makes_room_is_said_once_a_run(tmp_path, caplog):
    node_config = {"cache-dir": str(tmp_path), "partition-id": 1}
    where = context(**node_config)
    for seed in range(6):
        held = Held(where, SitePolicy(cache_bytes=2 * large(0).nbytes))
        held.install(Reference(model=f"m{seed}", version=0, digest=large(seed).digest), large(seed))
    said = [record.getMessage() for record in caplog.records if "cache-bytes" in record.getMessage()]
    assert said == [
        f"flserve: partition-1 lets its oldest versions in {tmp_path} go: "
        f"they are over its cache-bytes {2 * large(0).nbytes}"
    ]


def test_a_version_that_is_only_read_does_not_age(tmp_path):
    a = CacheDirectory(tmp_path, "a")
    for seed in range(3):
        install(a, artifact(seed), f"m{seed}")
    for path in tmp_path.rglob("*.json"):
        aged(path, 31)
    assert a.load(artifact(1).digest) == artifact(1)
    install(a, artifact(3), "new")
    assert {each.model for each in a.references()} == {"m1", "new"}


def test_blobs_that_nothing_names_go(tmp_path):
    a = CacheDirectory(tmp_path, "a")
    stray = tmp_path / "blobs" / artifact(5).digest
    (stray / "by").mkdir(parents=True)
    (stray / "payload").write_bytes(b"what a kill between payload and reference left")
    install(a, artifact(0))
    assert blobs(tmp_path) == {artifact(0).digest}


def test_a_server_that_names_thousands_of_models_fills_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEW_CLIENTS", 0)
    a = CacheDirectory(tmp_path, "a")
    for number in range(module.MOST_REFERENCES + 12):
        install(a, artifact(number), f"m{number}", "ab" * 32)
        assert len(blobs(tmp_path)) <= module.MOST_REFERENCES
    assert a.references()[-1].model == f"m{module.MOST_REFERENCES + 11}"
    assert len(a.references()) == module.MOST_REFERENCES


def test_private_tensors_go_by_their_own_age_and_not_in_silence(tmp_path, caplog):
    a = CacheDirectory(tmp_path, "a", SitePolicy(cache_bytes=1 << 20))
    for model in ("old", "used", "young"):
        a.private.put(model, "11" * 32, [b"mine"])
        (path,) = (path for path in tmp_path.rglob("*.private") if path.stat().st_mtime > time.time() - DAY)
        aged(path, {"old": 91, "used": 91, "young": 89}[model])
    assert bytes(a.private.get("used", "11" * 32)) == b"mine"
    install(a, large(0))
    assert [a.private.get(model, "11" * 32) is None for model in ("old", "used", "young")] == [True, False, False]
    (said,) = [record for record in caplog.records if "private tensors" in record.getMessage()]
    assert said.levelname == "WARNING"
    assert "that a kept are removed: no server asked for them for 90 days" in said.getMessage()


def test_links_in_a_cache_are_not_followed_when_it_is_swept(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".new-1-x").write_bytes(b"not the cache's")
    (outside / "x.json").write_bytes(b"{}")
    aged(outside / "x.json", 99)
    root = tmp_path / "cache"
    (root / "clients").mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "clients" / "b").symlink_to(outside)
    (root / "blobs" / "c").symlink_to(outside)
    aged(outside / ".new-1-x", 99)
    install(CacheDirectory(root, "a"), artifact(0))
    assert sorted(path.name for path in outside.iterdir()) == [".new-1-x", "x.json"]


def test_where_many_clients_share_it_a_cache_is_swept_now_and_then(tmp_path, monkeypatch):
    swept = []
    monkeypatch.setattr(module, "sweep", lambda *arguments: swept.append(arguments))
    monkeypatch.setattr(module, "FEW_CLIENTS", 2)
    for number in range(8):
        install(CacheDirectory(tmp_path, f"c{number}"), artifact(0))
    assert len(swept) == 2
    aged(tmp_path / "swept", 1 / 23)
    for number in range(8):
        install(CacheDirectory(tmp_path, f"c{number}"), artifact(0))
    assert len(swept) == 3
    aged(tmp_path / "swept", -2)
    install(CacheDirectory(tmp_path, "c0"), artifact(0))
    assert len(swept) == 4, "a time to come says nothing"


def test_a_cache_that_many_share_is_swept_at_once_when_it_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEW_CLIENTS", 2)
    policy = SitePolicy(cache_bytes=6 * large(0).nbytes)
    clients = [CacheDirectory(tmp_path, f"c{number}", policy) for number in range(4)]
    for number in range(12):
        install(clients[number % 4], large(number), f"m{number}")
        assert nbytes(tmp_path / "blobs") <= policy.cache_bytes + 10_000


@pytest.mark.parametrize("marked", [True, False])
def test_clients_that_never_came_again_are_let_go_however_many_they_are(tmp_path, marked):
    for number in range(20):
        install(CacheDirectory(tmp_path, f"c{number}"), artifact(number))
    if not marked:
        for path in tmp_path.glob("blobs/*/by/*"):
            path.unlink()
    for path in tmp_path.rglob("*"):
        aged(path, 400)
    install(CacheDirectory(tmp_path, "new"), artifact(99))
    assert blobs(tmp_path) == {artifact(99).digest}
    assert [path.name for path in (tmp_path / "clients").iterdir()] == ["new"]


def test_temporary_files_go_in_every_folder(tmp_path):
    kept = CacheDirectory(tmp_path, "a")
    install(kept, artifact(0))
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    assert len(folders) == 6
    for folder in folders:
        (folder / ".new-left").write_bytes(bytes(1000))
        aged(folder / ".new-left", 1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / ".new-year").write_bytes(b"somebody's")
    aged(tmp_path / "notes" / ".new-year", 1)
    install(kept, artifact(0))
    assert [path.name for path in tmp_path.rglob(".new-*")] == [".new-year"]


def test_what_a_kill_left_beside_a_reference_that_is_gone_goes(tmp_path):
    a = CacheDirectory(tmp_path, "a")
    install(a, artifact(0))
    for name in ("m", "gone", "young"):
        a.put_beside(name, [b"beside"])
    young = a._beside("young")
    for path in tmp_path.rglob("*.leftover"):
        aged(path, 0 if path == young else 31)
    install(a, artifact(0))
    assert [a.beside(name) is None for name in ("m", "gone", "young")] == [False, True, False]


def test_a_link_where_the_time_of_the_last_sweep_is_kept_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    root = tmp_path / "cache"
    root.mkdir()
    (root / "swept").symlink_to(outside)
    install(CacheDirectory(root, "a"), artifact(0))
    assert not outside.exists()
