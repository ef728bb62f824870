import json

import pytest

from flserve_app.errors import Overtaken
from flserve_app.registry import Registry, Retention, bundle, collect
from tests.cli.test_history import flserve
from tests.registry.samples import drifting, unrelated


@pytest.fixture
def store(tmp_path):
    with Registry.open(tmp_path / "store") as registry:
        for number, artifact in enumerate(drifting(5)):
            registry.publish("m", artifact, parent=number - 1 if number else None, round=number, codec="lossless")
    return tmp_path / "store"


def carry(store, *which, model=()):
    """Export and import into a new store; return what its log shows."""
    bundle, target = store.parent / "x.flb", store.parent / "target"
    done = flserve("export", *which, "--bundle", bundle, "--store", store)
    assert done.exit_code == 0, done.stderr
    assert flserve("import", bundle, "--store", target, *model).exit_code == 0
    return {row["version"]: row["digest"] for row in json.loads(flserve("log", "--store", target, "--json").stdout)}


@pytest.mark.parametrize(
    ("which", "numbers"),
    [(["latest"], [4]), (["v1"], [1]), (["v1..v3"], [1, 2, 3]), (["2..latest"], [2, 3, 4]), (["--all"], range(5))],
)
def test_versions_are_carried_from_store_to_store(store, which, numbers):
    assert carry(store, *which) == {f"v{number}": drifting(5)[number].digest for number in numbers}
    assert flserve("verify", "--store", store.parent / "target").exit_code == 0


def test_what_was_carried_is_said(store):
    bundle, target = store.parent / "x.flb", store.parent / "target"
    said = flserve("export", "v1..v3", "--bundle", bundle, "--store", store).stdout
    assert said == f"{bundle}: m, 3 versions (v1 to v3), 4 payloads, {bundle.stat().st_size:,} bytes\n"
    assert flserve("import", bundle, "--store", target).stdout == "m: 3 versions added (v1 to v3)\n"
    assert flserve("import", bundle, "--store", target).stdout == "m: 0 versions added, 3 there already\n"
    again = json.loads(flserve("import", bundle, "--store", target, "--model", "n", "--json").stdout)
    assert again == {"model": "n", "added": [1, 2, 3], "present": []}


def test_a_range_leaves_out_what_was_collected(store):
    with Registry.open(store) as registry:
        collect(registry, Retention(keep=2))
    assert list(carry(store, "--all")) == ["v3", "v4"]
    assert list(carry(store, "v0..v3")) == ["v3", "v4"]
    bundle = store.parent / "y.flb"
    for which in ("v1", "v0..v2"):
        done = flserve("export", which, "--bundle", bundle, "--store", store)
        assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert not bundle.exists()


def test_a_conflict_is_one_line_that_says_the_way_out(store):
    bundle = store.parent / "x.flb"
    flserve("export", "--all", "--bundle", bundle, "--store", store)
    with Registry.open(store.parent / "target") as registry:
        registry.publish("m", unrelated(1), round=0, codec="full")
    done = flserve("import", bundle, "--store", store.parent / "target")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: m v0 is in the store with content ")
    assert done.stderr.endswith("import it under another name with --model\n")


@pytest.mark.parametrize(
    ("name", "start"), [("m.npz", b"PK"), ("m.NPZ", b"PK"), ("m.safetensors", None), ("m.pt", b"PK")]
)
def test_the_ending_of_a_file_says_its_format(store, tmp_path, name, start):
    done = flserve("export", "latest", "-o", tmp_path / name, "--store", store)
    assert done.exit_code == 0, done.stderr
    content = (tmp_path / name).read_bytes()
    assert content.startswith(start) if start else content[8:9] == b"{"


def test_a_format_that_is_named_counts_more_than_the_ending(store, tmp_path):
    assert flserve("export", "latest", "-o", tmp_path / "m.npz", "-f", "safetensors", "--store", store).exit_code == 0
    assert (tmp_path / "m.npz").read_bytes()[8:9] == b"{"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["v0"],
        ["v0", "-o", "x"],
        ["v0", "-f", "npz"],
        ["-o", "x", "-f", "npz"],
        ["--all", "-o", "x", "-f", "npz"],
        ["--bundle", "x"],
        ["v0", "--all", "--bundle", "x"],
        ["v0", "--bundle", "x", "-o", "y"],
        ["v0", "--bundle", "x", "-f", "npz"],
    ],
)
def test_wrong_usage_exits_with_2(store, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert flserve("export", *arguments, "--store", store).exit_code == 2
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("at", [700, -1500])
def test_a_refused_bundle_makes_no_store(store, at):
    bundle, target = store.parent / "x.flb", store.parent / "target"
    flserve("export", "--all", "--bundle", bundle, "--store", store)
    data = bytearray(bundle.read_bytes())
    data[at] ^= 1
    bundle.write_bytes(data)
    done = flserve("import", bundle, "--store", target)
    assert (done.exit_code, done.stderr.count("error: ")) == (1, 1)
    assert not target.exists()
    assert flserve("import", store.parent / "none", "--store", target).exit_code == 1
    assert not target.exists()


def test_a_bundle_into_a_stream_is_not_begun_twice(store, monkeypatch):
    """Whoever collects a payload while it is written makes it an error, not a second bundle behind half of one."""
    stored, written = bundle._stored, []

    def overtaken(registry, edge):
        if len(written) == 2:
            raise Overtaken("payload was collected")
        written.append(edge)
        return stored(registry, edge)

    monkeypatch.setattr(bundle, "_stored", overtaken)
    done = flserve("export", "--all", "--bundle", "-", "--store", store)
    assert (done.exit_code, done.stderr.count("error: ")) == (1, 1)
    assert "what was written until then is no whole, do it again" in done.stderr
    assert len(written) == 2


def test_a_bundle_into_a_file_is_begun_again(store, monkeypatch):
    stored, asked = bundle._stored, []

    def overtaken_once(registry, edge):
        asked.append(edge)
        if len(asked) == 2:
            raise Overtaken("payload was collected")
        return stored(registry, edge)

    monkeypatch.setattr(bundle, "_stored", overtaken_once)
    assert flserve("export", "--all", "--bundle", store.parent / "x.flb", "--store", store).exit_code == 0
    assert len(asked) == 2 + 5
    assert flserve("import", store.parent / "x.flb", "--store", store.parent / "target").exit_code == 0


def test_what_is_no_bundle_is_one_line(store, tmp_path):
    (tmp_path / "x").write_bytes(b"x" * 600)
    done = flserve("import", tmp_path / "x", "--store", store)
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)
    assert "is not a bundle" in done.stderr
