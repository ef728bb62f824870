import json
import threading

import pytest
from filelock import FileLock

from flserve_app.client import cache
from flserve_app.client.cache import CacheDirectory
from flserve_app.client.reference import Reference
from flserve_app.codec import encode
from flserve_app.errors import StoreError
from tests.client.contexts import artifact


def install(directory, made, model="m", version=0):
    reference = Reference(model=model, version=version, digest=made.digest)
    directory.install(reference, made)
    return reference


def blobs(root):
    return sorted(path.name for path in (root / "blobs").iterdir())


def test_what_was_installed_is_held_by_a_new_process(tmp_path):
    made = artifact()
    reference = install(CacheDirectory(tmp_path, "a"), made)
    again = CacheDirectory(tmp_path, "a")
    assert again.references() == (reference,)
    assert again.load(made.digest) == made


def test_clients_share_blobs_and_see_only_their_own(tmp_path):
    a, b = CacheDirectory(tmp_path, "a"), CacheDirectory(tmp_path, "b")
    old, new = artifact(0), artifact(1)
    first = install(a, old)
    assert b.references() == ()
    install(b, old)
    assert blobs(tmp_path) == [old.digest]
    second = install(b, new)
    assert blobs(tmp_path) == sorted([old.digest, new.digest])
    assert a.references() == (first,)
    assert b.references() == (second,)
    install(a, new)
    assert blobs(tmp_path) == [new.digest]


def test_a_blob_two_models_of_a_client_need_stays(tmp_path):
    a = CacheDirectory(tmp_path, "a")
    shared, other = artifact(0), artifact(1)
    install(a, shared, "m")
    install(a, shared, "n")
    install(a, other, "m")
    assert blobs(tmp_path) == sorted([shared.digest, other.digest])
    install(a, other, "n")
    assert blobs(tmp_path) == [other.digest]


def test_models_of_any_name_have_files_of_their_own(tmp_path):
    a = CacheDirectory(tmp_path, "a")
    names = ["../../up", "a/b", "a b", "a", "A", "", "é" * 300]
    for number, name in enumerate(names):
        install(a, artifact(number), name)
    assert {reference.model for reference in a.references()} == set(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs", "clients", "lock", "swept"]


@pytest.mark.parametrize("damage", ["flip", "empty", "swap"])
def test_a_damaged_blob_is_absent_and_makes_room_for_the_good_one(tmp_path, damage):
    a, made = CacheDirectory(tmp_path, "a"), artifact()
    reference = install(a, made)
    payload = tmp_path / "blobs" / made.digest / "payload"
    data = payload.read_bytes()
    other = encode(artifact(1), codec="full")
    payload.write_bytes({"flip": data[:-9] + b"x" + data[-8:], "empty": b"", "swap": other}[damage])
    assert a.load(made.digest) is None
    assert a.references() == ()
    install(a, made)
    assert a.load(made.digest) == made
    assert a.references() == (reference,)


def test_what_is_gone_is_not_held(tmp_path):
    a, made = CacheDirectory(tmp_path, "a"), artifact()
    assert a.references() == ()
    assert a.load(made.digest) is None
    install(a, made)
    (tmp_path / "blobs" / made.digest / "payload").unlink()
    assert a.references() == ()


@pytest.mark.parametrize("text", [b"{}", b"\xff", b'{"model":"m","version":1,"digest":"../../x"}'])
def test_an_unreadable_reference_is_left_out_and_replaced(tmp_path, text):
    a, made = CacheDirectory(tmp_path, "a"), artifact()
    install(a, made)
    (pointer,) = (tmp_path / "clients" / "a").glob("*.json")
    pointer.write_bytes(text)
    assert a.references() == ()
    install(a, artifact(1))
    assert len(a.references()) == 1


def test_a_directory_that_stays_locked_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / "lock"), pytest.raises(StoreError, match=r"stayed locked for 0 s"):
        install(CacheDirectory(tmp_path, "a"), artifact())


def test_clients_that_install_at_once_lose_nothing(tmp_path):
    made = [artifact(seed) for seed in range(4)]
    failures = []

    def client(name):
        directory = CacheDirectory(tmp_path, name)
        for version, one in enumerate(made):
            install(directory, one, version=version)
            if directory.load(one.digest) != one:
                failures.append((name, version))

    threads = [threading.Thread(target=client, args=(f"c{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert blobs(tmp_path) == [made[-1].digest]


def test_references_are_files_people_can_read(tmp_path):
    made = artifact()
    install(CacheDirectory(tmp_path, "a"), made, "digits", 3)
    (pointer,) = (tmp_path / "clients" / "a").glob("*.json")
    assert json.loads(pointer.read_text()) == {"model": "digits", "version": 3, "digest": made.digest}
