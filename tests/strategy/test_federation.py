"""The name of a model's history."""

import pytest

from flserve_app.registry import Registry, export_bundle, import_bundle
from flserve_app.strategy.federation import Federation
from tests.registry.samples import drifting


@pytest.mark.parametrize("run", [None, "r1"])
def test_a_history_that_goes_on_elsewhere_is_the_same(tmp_path, run):
    with Registry.open(tmp_path / "a") as one, Registry.open(tmp_path / "b") as other:
        if run is not None:
            one.start_run(run, "m", config={})
        version = one.publish("m", drifting(1)[0], round=0, codec="full", run=run)
        export_bundle(one, [version], tmp_path / "bundle")
        import_bundle(other, tmp_path / "bundle")
        assert Federation(one, "m").name == Federation(other, "m").name


def test_the_same_content_in_another_store_is_another_history(tmp_path):
    names = set()
    for store in ("a", "b"):
        with Registry.open(tmp_path / store) as registry:
            registry.publish("m", drifting(1)[0], round=0, codec="full")
            names.add(Federation(registry, "m").name)
    assert len(names) == 2


def test_nobody_knows_the_name_of_what_has_not_begun(tmp_path):
    with Registry.open(tmp_path / "a") as registry:
        federation = Federation(registry, "m")
        assert federation.name != federation.name
        registry.publish("m", drifting(1)[0], round=0, codec="full")
        assert federation.name == federation.name
