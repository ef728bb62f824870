"""A registry, reopened and crashed at will, against a list of artifacts."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from flserve_app.artifact import Artifact
from flserve_app.errors import Conflict, NotFound, StoreError
from flserve_app.registry import Registry
from flserve_app.store import Database, DirBlobs

MODELS = st.sampled_from(["a", "b"])
CONTENTS = st.integers(0, 6).map(lambda seed: Artifact({"w": np.full(40, seed, np.float32), "n": np.array(seed)}))


class FullDisk:
    """Blobs that cannot be put any more."""

    def __init__(self, inner):
        self._inner = inner

    def put(self, data):
        raise StoreError("cannot write: No space left on device")

    def __getattr__(self, name):
        return getattr(self._inner, name)


class RegistryAgainstLists(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = self.make_folder()
        self.published: dict[str, list[Artifact]] = {}
        self.labels: dict[tuple[str, str], int] = {}
        self.registry = Registry.open(self.folder, keyframe_every=3)

    def teardown(self):
        self.registry.close()

    @rule(model=MODELS, artifact=CONTENTS, data=st.data())
    def publish(self, model, artifact, data):
        before = self.published.setdefault(model, [])
        parent = data.draw(st.sampled_from([None, *range(len(before))]))
        known = any(artifact in artifacts for artifacts in self.published.values())
        version = self.registry.publish(model, artifact, parent=parent, round=len(before), codec="lossless")
        assert (version.number, version.digest, version.stored == 0) == (len(before), artifact.digest, known)
        before.append(artifact)

    @rule(model=MODELS, artifact=CONTENTS)
    def publish_with_an_unknown_parent(self, model, artifact):
        with pytest.raises(NotFound):
            self.registry.publish(model, artifact, parent=999, round=0, codec="lossless")

    @rule(model=MODELS, seed=st.integers(100, 200))
    def publish_on_a_full_disk(self, model, seed):
        database = Database.at(self.folder / "catalog.sqlite")
        full = Registry(database, FullDisk(DirBlobs(self.folder / "blobs")))
        with pytest.raises(StoreError, match="No space left"):
            full.publish(model, Artifact({"w": np.full(40, seed, np.float32)}), round=0, codec="lossless")
        full.close()

    @precondition(lambda self: any(self.published.values()))
    @rule(data=st.data(), right=st.booleans())
    def move_label(self, data, right):
        model = data.draw(st.sampled_from(sorted(name for name, kept in self.published.items() if kept)))
        number = data.draw(st.integers(0, len(self.published[model]) - 1))
        stands = self.labels.get((model, "stable"))
        if right:
            self.registry.move_label(model, "stable", number, why="test", expect=stands)
            self.labels[model, "stable"] = number
        else:
            with pytest.raises(Conflict):
                self.registry.move_label(model, "stable", number, why="test", expect=998)

    @rule()
    def reopen(self):
        self.registry.close()
        self.registry = Registry.open(self.folder, create=False, keyframe_every=3)

    @invariant()
    def everything_is_there(self):
        for model, artifacts in self.published.items():
            versions = self.registry.versions(model)
            assert [self.registry.load(version) for version in versions] == artifacts
            assert all(len(self.registry.chain(version.digest)) <= 3 for version in versions)
            expected = {label: number for (name, label), number in self.labels.items() if name == model}
            if artifacts:
                expected["latest"] = len(artifacts) - 1
            assert self.registry.labels(model) == expected


def test_a_registry_behaves_like_lists(tmp_path_factory):
    class Machine(RegistryAgainstLists):
        def make_folder(self):
            return tmp_path_factory.mktemp("store")

    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=12, deadline=None))
