import pytest

from flserve_app.errors import NotFound
from flserve_app.registry import Registry
from tests.registry.samples import drifting


@pytest.mark.parametrize(
    ("ref", "number"), [("latest", 2), ("best", 1), ("v0", 0), ("1", 1), (drifting(3)[2].digest[:8], 2)]
)
def test_a_version_is_loaded_by_its_model_and_a_name_of_it(tmp_path, ref, number):
    with Registry.open(tmp_path / "s") as registry:
        for at, artifact in enumerate(drifting(3)):
            registry.publish("m", artifact, parent=at - 1 if at else None, round=at, codec="lossless")
        registry.move_label("m", "best", 1, why="")
        assert registry.load("m", ref) == drifting(3)[number]
        with pytest.raises(NotFound, match="has no version 'v9'"):
            registry.load("m", "v9")
