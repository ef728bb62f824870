"""What is let into a catalog is plain, small and finite; what is in it already is shown plain."""

import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from flserve_app.artifact import Artifact
from flserve_app.errors import StoreError
from flserve_app.registry import Registry, Serving, export_bundle, import_bundle
from flserve_app.registry.archive_file import write_end, write_member
from flserve_app.registry.contents import MAX_MANIFEST_BYTES
from flserve_app.registry.manifest import from_json
from flserve_app.store.journal import leave_log
from tests.cli.test_history import flserve
from tests.registry.samples import drifting

ESC = "\x1b]0;owned\x07\n"
SERVING = Serving(model_id="m", classes=("a", "\n", " "))
A = Artifact({"w": np.zeros(3, "f4")})

ODD = {
    "metric": {"metrics": {ESC: 1.0}},
    "metrics": {"metrics": {str(number): 1.0 for number in range(1025)}},
    "huge metric": {"metrics": {"a": 10**400}},
    "codec": {"codec": ESC},
    "round": {"round": -1},
    "late round": {"round": 2**63},
    "class": {"serving": Serving(model_id="m", classes=(ESC,))},
    "model id": {"serving": Serving(model_id=ESC)},
    "argument": {"serving": Serving(model_id="m", arguments={"a": ESC})},
    "name": {"serving": Serving(model_id="m", arguments={ESC: 1})},
    "NaN": {"serving": Serving(model_id="m", arguments={"a": float("nan")})},
    "infinity": {"serving": Serving(model_id="m", inputs=({"a": float("inf")},))},
    "depth": {"serving": Serving(model_id="m", preprocessing={"a": json.loads("[" * 40 + "]" * 40)})},
    "number": {"serving": Serving(model_id="m", arguments={"a": 2**64})},
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_not_published(registry, name):
    with pytest.raises(StoreError) as caught:
        registry.publish("m", A, **{"round": 0, "codec": "full", **ODD[name]})
    assert "\x1b" not in str(caught.value)
    assert (registry.models(), list(registry.blobs)) == ((), [])


def test_names_of_tensors_labels_and_metrics_are_plain(registry):
    with pytest.raises(StoreError, match="tensor's name"):
        registry.publish("m", Artifact({ESC: np.zeros(3)}), round=0, codec="full")
    registry.publish("m", A, round=0, codec="full", serving=SERVING)
    with pytest.raises(StoreError, match="metric's name"):
        registry.add_metrics("m", 0, {ESC: 1.0})
    for said in ({"why": ESC}, {"why": "", "who": ESC}):
        with pytest.raises(StoreError, match="printable"):
            registry.move_label("m", "best", 0, **said)


def test_what_old_stores_hold_is_shown_plain(place):
    with Registry.open(place / "store") as registry:
        registry.publish("m", A, round=0, codec="full")
    with closing(sqlite3.connect(place / "store" / "catalog.sqlite")) as database:
        database.execute("UPDATE versions SET codec = ?", (ESC,))
        database.execute("UPDATE models SET name = ?", ("m" + ESC,))
        database.commit()
    for command in (["log"], ["verify"], ["gc"], ["diff", "v0", "v7"]):
        done = flserve(*command, "--store", place / "store")
        assert "\x1b" not in done.output
        assert "\x07" not in done.output


def test_each_serving_is_in_a_bundle_once_and_old_bundles_are_taken_in(registry, place):
    for number, artifact in enumerate(drifting(3, size=10)):
        registry.publish("m", artifact, round=number, codec="full", serving=SERVING)
    contents = export_bundle(registry, registry.versions("m"), place / "new")
    data = (place / "new").read_bytes()
    size = int(data[124:135], 8)
    manifest = json.loads(data[512 : 512 + size])
    assert (manifest["format"], len(manifest["servings"])) == (2, 1)
    (serving,) = manifest.pop("servings")
    manifest["format"] = 1
    for version in manifest["versions"]:
        version["serving"] = serving
    old = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert from_json(old) == contents
    with (place / "old").open("wb") as file:
        write_member(file, "manifest.json", old)
        for edge in contents.payloads:
            write_member(file, f"blobs/{edge.blob}", registry.blobs.view(edge.blob))
        write_end(file)
    with Registry.open(place / "away") as away:
        assert import_bundle(away, place / "old").added == (0, 1, 2)


def test_a_bundle_that_no_one_takes_in_is_not_written(registry, place, monkeypatch):
    registry.publish("m", A, round=0, codec="full", metrics={"a": 0.5})
    monkeypatch.setattr("flserve_app.registry.contents.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(StoreError, match="range by range"):
        export_bundle(registry, registry.versions("m"), place / "x")
    monkeypatch.undo()
    monkeypatch.setattr("flserve_app.registry.manifest.MAX_METRICS", 0)
    with pytest.raises(StoreError, match="more than 0 metrics together"):
        export_bundle(registry, registry.versions("m"), place / "x")
    assert not (place / "x").exists()
    assert MAX_MANIFEST_BYTES == 64 << 20


def test_a_catalog_with_a_log_moves_to_where_none_can_be(place, monkeypatch):
    with Registry.open(place / "store") as registry:
        registry.publish("m", A, round=0, codec="full")
    monkeypatch.setattr("flserve_app.store.journal.shares_memory", lambda folder: False)
    assert leave_log(place / "store" / "catalog.sqlite")
    for store, count in ((place / "store", 2), (place / "fresh", 1)):
        with Registry.open(store) as registry:
            registry.publish("m", A, round=1, codec="full")
            assert len(registry.versions("m")) == count
            with registry.database.read() as connection:
                assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "truncate"


@pytest.mark.parametrize("path", ["d" * 300, "a file/x"])
def test_paths_that_cannot_be_looked_at_are_one_line(place, path):
    (place / "a file").write_bytes(b"")
    for command in (["log"], ["verify"], ["gc"]):
        done = flserve(*command, "--store", place / path)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
        assert done.stderr.startswith("error: ")
