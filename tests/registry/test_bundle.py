import json
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flserve_app.errors import Conflict, FlserveError, NotFound, StoreError
from flserve_app.registry import Registry, Retention, Serving, collect, export_bundle, import_bundle, verify
from flserve_app.registry.archive_file import write_end, write_member
from flserve_app.registry.contents import to_json
from flserve_app.registry.manifest import from_json
from tests.registry.samples import drifting, unrelated

SERVING = Serving(model_id="mlp", arguments={"hidden": 64}, inputs=({"shape": [None, 32]},), classes=("a", "b"), seed=7)


@pytest.fixture
def home(registry):
    """A registry with six versions of `m`: a keyframe at 0 and 4, metrics, serving, a run, a label."""
    registry.start_run("run-1", "m", config={"path": "/secret"})
    for number, artifact in enumerate(drifting(6)):
        parent = number - 1 if number else None
        metrics = {"accuracy": 0.5, "loss": float("nan")}
        registry.publish(
            "m", artifact, parent=parent, round=number, run="run-1", codec="grid", metrics=metrics, serving=SERVING
        )
    registry.move_label("m", "stable", 1, why="best")
    return registry


@pytest.fixture
def away(place, clock):
    with Registry.open(place / "away", clock=clock) as opened:
        yield opened


@pytest.fixture
def bundle(home, place):
    """All versions, in a file."""
    export_bundle(home, home.versions("m"), place / "all.flb")
    return place / "all.flb"


def rewritten(bundle, change):
    """Rewrite a bundle with a changed manifest (a dict) and blobs (a list of names and bytes)."""
    with tarfile.open(bundle) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive]
    manifest = json.loads(members[0][1])
    blobs = members[1:]
    change(manifest, blobs)
    with bundle.open("wb") as file:
        write_member(file, "manifest.json", json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
        for name, data in blobs:
            write_member(file, name, data)
        write_end(file)
    return bundle


def test_everything_comes_over(home, away, bundle):
    taken = import_bundle(away, bundle)
    assert (taken.model, taken.added, taken.present) == ("m", tuple(range(6)), ())
    for there, here in zip(home.versions("m"), away.versions("m"), strict=True):
        assert repr(replace(here, stored=0)) == repr(replace(there, run=None, stored=0))
    assert [away.load(version) for version in away.versions("m")] == drifting(6)
    assert away.labels("m") == {"latest": 5}
    assert away.label_moves("m")[-1].why == "imported"
    assert away.runs() == ()
    assert verify(away).clean
    assert away.publish("m", unrelated(1), parent=5, round=6, codec="full").number == 6


def test_one_version_brings_its_chain_and_keeps_its_number(home, away, place):
    export_bundle(home, [home.resolve("m", "v3")], place / "one.flb")
    import_bundle(away, place / "one.flb", model="theirs")
    (version,) = away.versions("theirs")
    assert (version.number, version.parent, version.digest) == (3, None, drifting(4)[3].digest)
    assert away.load(version) == drifting(4)[3]
    assert len(away.chain(version.digest)) == 4
    assert away.latest("theirs").serial == version.serial
    assert verify(away).clean
    collect(away, Retention(keep=1))
    assert len(away.chain(version.digest)) == 1
    assert away.load(away.versions("theirs")[0]) == drifting(4)[3]
    assert away.publish("theirs", unrelated(1), round=4, codec="full").number == 4


def test_a_bundle_is_a_plain_tar_whose_bytes_follow_from_its_contents(home, bundle, place):
    export_bundle(home, reversed(home.versions("m")), place / "again.flb")
    assert (place / "again.flb").read_bytes() == bundle.read_bytes()
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
        names = [f"blobs/{edge.blob}" for version in home.versions("m") for edge in home.chain(version.digest)[-1:]]
        assert [member.name for member in members] == ["manifest.json", *names]
        assert all((one.isreg(), one.mode, one.uid, one.gid, one.mtime) == (True, 0o644, 0, 0, 0) for one in members)
        manifest = archive.extractfile(members[0]).read()
    assert to_json(from_json(manifest)) == manifest
    assert b"secret" not in manifest


def test_exporting_what_was_imported_gives_the_same_bytes(away, bundle, place):
    import_bundle(away, bundle)
    export_bundle(away, away.versions("m"), place / "again.flb")
    assert (place / "again.flb").read_bytes() == bundle.read_bytes()


def test_importing_twice_is_importing_once(away, bundle, place):
    import_bundle(away, bundle)
    before = away.catalog.inventory(), set(away.blobs)
    assert import_bundle(away, bundle).present == tuple(range(6))
    assert repr((away.catalog.inventory(), set(away.blobs))) == repr(before)


def test_a_bundle_fills_what_is_missing(home, away, bundle, place):
    export_bundle(home, home.versions("m")[:3], place / "first.flb")
    import_bundle(away, place / "first.flb")
    taken = import_bundle(away, bundle)
    assert (taken.added, taken.present) == ((3, 4, 5), (0, 1, 2))
    assert [away.load(version) for version in away.versions("m")] == drifting(6)


def test_an_older_version_does_not_move_latest(home, away, place):
    for numbers in ([5], [2]):
        export_bundle(home, [home.versions("m")[number] for number in numbers], place / "one.flb")
        import_bundle(away, place / "one.flb")
    assert away.labels("m") == {"latest": 5}
    assert [version.number for version in away.versions("m")] == [2, 5]


def test_other_content_under_a_number_is_a_conflict_and_nothing_is_written(away, bundle):
    away.publish("m", unrelated(3), round=0, codec="full")
    before = away.catalog.inventory(), set(away.blobs)
    with pytest.raises(Conflict, match=r"m v0 is in the store with content .*: import it under another name"):
        import_bundle(away, bundle)
    assert (away.catalog.inventory(), set(away.blobs)) == before
    import_bundle(away, bundle, model="other")
    assert [away.load(version) for version in away.versions("other")] == drifting(6)


def test_a_collected_version_gets_its_content_back(home, bundle):
    collect(home, Retention(keep=1))
    assert import_bundle(home, bundle).added == (0, 2, 3, 4)
    assert [home.load(version) for version in home.versions("m")] == drifting(6)
    assert verify(home).clean
    assert len(home.versions("m")) == 6


def test_a_collected_version_is_not_exported(home, place):
    home.move_label("m", "stable", 5, why="newer")
    collect(home, Retention(keep=1))
    with pytest.raises(NotFound):
        export_bundle(home, home.versions("m"), place / "all.flb")
    assert not (place / "all.flb").exists()


def test_a_bundle_is_of_one_model(home, place):
    home.publish("n", unrelated(1), round=0, codec="full")
    for versions in ([], [*home.versions("m"), *home.versions("n")]):
        with pytest.raises(StoreError, match="one or more versions of one model"):
            export_bundle(home, versions, place / "all.flb")


def test_a_damaged_store_makes_no_bundle(home, place):
    blob = home.chain(home.latest("m").digest)[0].blob
    (place / "store" / "blobs" / blob[:2] / blob).write_bytes(b"damaged")
    with pytest.raises(StoreError):
        export_bundle(home, home.versions("m"), place / "all.flb")
    assert not (place / "all.flb").exists()
    assert list(place.glob(".tmp-*")) == []


def test_a_strange_name_is_refused(away, bundle):
    with pytest.raises(StoreError, match="a model's name is 1 to 128"):
        import_bundle(away, bundle, model="../m")


def raised(manifest, **changes):
    manifest.update(changes)


CHANGES = {
    "newer format": (lambda m, b: raised(m, format=3), "it has format 3, this flserve reads up to 2"),
    "no bundle": (lambda m, b: raised(m, kind="x"), "is not one of a bundle"),
    "no model": (lambda m, b: m.pop("model"), "model must be str"),
    "path as model": (lambda m, b: raised(m, model="../x"), "model's name is 1 to 128"),
    "more fields": (lambda m, b: raised(m, more=1), "not in its canonical form"),
    "no versions": (lambda m, b: raised(m, versions=[]), "one or more in the order"),
    "a version twice": (lambda m, b: m["versions"].append(m["versions"][-1]), "not in its canonical form"),
    "no order": (lambda m, b: m["versions"].reverse(), "one or more in the order"),
    "negative number": (lambda m, b: raised(m["versions"][0], number=-1), "number must be 0 to"),
    "huge number": (lambda m, b: raised(m["versions"][0], number=2**31), "number must be 0 to"),
    "number as text": (lambda m, b: raised(m["versions"][0], number="0"), "number must be int"),
    "number as bool": (lambda m, b: raised(m["versions"][1], number=True), "number must be int"),
    "round as float": (lambda m, b: raised(m["versions"][0], round=0.5), "round must be int"),
    "later parent": (lambda m, b: raised(m["versions"][0], parent=4), "v0 has the parent v4"),
    "unknown artifact": (lambda m, b: raised(m["versions"][0], digest="f" * 64), "size of artifact f"),
    "strange digest": (lambda m, b: raised(m["versions"][0], digest="../../x"), "64 lower-case hex"),
    "strange codec": (lambda m, b: raised(m["versions"][0], codec="a b"), "codec's name is plain"),
    "strange metric": (lambda m, b: raised(m["versions"][0], metrics={"x": "big"}), "metric 'x' must be a number"),
    "local time": (lambda m, b: raised(m["versions"][0], created="2026-01-01"), "a time is ISO 8601"),
    "strange serving": (
        lambda m, b: m.update(servings=[{"model_id": "x"}]),
        "serving takes does not",
    ),
    "strange seed": (lambda m, b: m["servings"][0].update(seed="7"), "serving takes does not"),
    "strange class": (lambda m, b: m["servings"][0].update(classes=[1]), "serving takes does not"),
    "huge artifact": (lambda m, b: raised(m["sizes"], **{next(iter(m["sizes"])): 1 << 50}), "a size is 0 to"),
    "wrong size": (lambda m, b: raised(m["sizes"], **{next(iter(m["sizes"])): 7}), "its manifest says 7"),
    "one size more": (lambda m, b: raised(m["sizes"], **{"f" * 64: 7}), "do not make the artifacts"),
    "payload dropped": (lambda m, b: m["payloads"].pop(), "do not make the artifacts"),
    "payload twice": (lambda m, b: m["payloads"].append(m["payloads"][0]), "out of order, or makes"),
    "base after target": (lambda m, b: m["payloads"].reverse(), "out of order"),
    "path as blob": (lambda m, b: raised(m["payloads"][0], blob="../../etc/passwd"), "64 lower-case hex"),
    "longer payload": (lambda m, b: raised(m["payloads"][0], nbytes=m["payloads"][0]["nbytes"] + 1), "expected blobs/"),
    "blob dropped": (lambda m, b: b.pop(), "cut short|expected blobs/"),
    "blob added": (lambda m, b: b.append(("blobs/x", b"x")), "is not its end"),
    "blob swapped": (lambda m, b: b.insert(0, b.pop()), "expected blobs/"),
    "name changed": (lambda m, b: b.append(("../x", b.pop()[1])), "expected blobs/"),
    "content changed": (lambda m, b: b.append((b[-1][0], bytes(len(b.pop()[1])))), "is damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_hold_together_is_refused_whole(away, bundle, name):
    change, message = CHANGES[name]
    with pytest.raises(FlserveError, match=message):
        import_bundle(away, rewritten(bundle, change))
    assert away.models() == ()
    assert list(away.blobs) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_the_like_are_refused(away, bundle, kind):
    data = bytearray(bundle.read_bytes())
    with tarfile.open(bundle) as archive:
        start = archive.getmembers()[1].offset
    data[start + 156 : start + 168] = kind + b"/etc/passwd"
    header = data[start : start + 148] + b" " * 8 + data[start + 156 : start + 512]
    data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    bundle.write_bytes(data)
    with tarfile.open(bundle) as archive:
        assert archive.getmembers()[1].type == kind
    with pytest.raises(StoreError, match="expected blobs/"):
        import_bundle(away, bundle)


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000, bytes(1024), b"PK\3\4" * 600])
def test_what_is_no_bundle_is_refused(away, place, content):
    (place / "x").write_bytes(content)
    with pytest.raises(StoreError, match=r"is not a bundle|is cut short|manifest"):
        import_bundle(away, place / "x")
    with pytest.raises(StoreError, match=r"cannot read bundle .*: No such file"):
        import_bundle(away, place / "nothing")


def test_a_manifest_is_bounded(away, bundle):
    data = bytearray(bundle.read_bytes())
    data[124:136] = b"77777777777\0"
    bundle.write_bytes(data)
    with pytest.raises(StoreError, match=r"manifest.json has 8589934591 bytes, at most"):
        import_bundle(away, bundle)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a bundle of two small versions."""
    folder = tmp_path_factory.mktemp("small")
    with Registry.open(folder / "store") as registry:
        for number, artifact in enumerate(drifting(2, size=4)):
            registry.publish("m", artifact, parent=0 if number else None, round=number, codec="full")
        export_bundle(registry, registry.versions("m"), folder / "small.flb")
    return (folder / "small.flb").read_bytes()


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    with Registry.open(folder / "store") as registry:
        yield registry, folder / "x.flb"


@settings(max_examples=200)
@given(data=st.data())
def test_no_damaged_bundle_is_taken_in(small, target, data):
    registry, path = target
    position = data.draw(st.integers(0, len(small) - 1))
    mask = data.draw(st.integers(1, 255))
    way = data.draw(st.sampled_from(["flip", "cut", "drop", "double"]))
    path.write_bytes(
        {
            "flip": small[:position] + bytes([small[position] ^ mask]) + small[position + 1 :],
            "cut": small[:position],
            "drop": small[:position] + small[position + 1 :],
            "double": small[:position] + small[position : position + 512] + small[position:],
        }[way]
    )
    before = repr(registry.catalog.inventory()), set(registry.blobs)
    try:
        taken = import_bundle(registry, path)
    except FlserveError:
        assert (repr(registry.catalog.inventory()), set(registry.blobs)) == before
        return
    # A letter of a name or a digit of a time may be another and nobody knows: that is what signing is for.
    assert way == "flip"
    assert {registry.load(version) for version in registry.versions(taken.model)} <= set(drifting(2, size=4))
