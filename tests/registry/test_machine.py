"""A registry, reopened, collected, carried away and crashed at will, against lists and dicts."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from flserve_app.artifact import Artifact
from flserve_app.errors import Conflict, NotFound, StoreError
from flserve_app.registry import Holder, Registry, Retention, collect, export_bundle, import_bundle, verify
from flserve_app.store import Database, DirBlobs

MODELS = st.sampled_from(["a", "b"])
WEEK = timedelta(days=7)
CONTENTS = st.integers(0, 6).map(lambda seed: Artifact({"w": np.full(40, seed, np.float32), "n": np.array(seed)}))


class FullDisk:
    """Blobs that cannot be put any more."""

    def __init__(self, inner):
        self._inner = inner

    def writing(self, parts):
        raise StoreError("cannot write: No space left on device")

    put = writing

    def __getattr__(self, name):
        return getattr(self._inner, name)


class RegistryAgainstLists(RuleBasedStateMachine):
    """The model: artifacts by number, which of them have content, labels, states, and what clients hold."""

    def __init__(self):
        super().__init__()
        self.folder = self.make_folder()
        self.bundles = self.make_folder()
        self.now = datetime(2100, 1, 1, tzinfo=UTC)
        self.published: dict[str, list[Artifact]] = {}
        self.kept: set[Artifact] = set()
        self.labels: dict[tuple[str, str], int] = {}
        self.states: dict[tuple[str, int], bytes] = {}
        self.clients: dict[tuple[str, str], tuple[Artifact, datetime]] = {}
        self.carried: list[tuple[str, dict[int, Artifact]]] = []
        self.registry = self.open()

    def open(self):
        return Registry.open(self.folder, keyframe_every=3, clock=lambda: self.now)

    def teardown(self):
        self.registry.close()

    def forget_old_states(self, model):
        for number in range(len(self.published[model]) - 3):
            self.states.pop((model, number), None)

    def of_a_model(self, data):
        return data.draw(st.sampled_from(sorted(self.published)))

    @rule(model=MODELS, artifact=CONTENTS, state=st.none() | st.binary(max_size=2), data=st.data())
    def publish(self, model, artifact, state, data):
        before = self.published.get(model, [])
        parent = data.draw(st.sampled_from([None, *range(len(before))]))
        more = {} if state is None else {"state": state, "state_kind": "test"}
        version = self.registry.publish(model, artifact, parent=parent, round=len(before), codec="lossless", **more)
        known = artifact in self.kept
        assert (version.number, version.digest, version.stored == 0) == (len(before), artifact.digest, known)
        if state is not None:
            self.states[model, version.number] = state
        self.published.setdefault(model, []).append(artifact)
        self.forget_old_states(model)
        self.kept.add(artifact)

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

    @precondition(lambda self: self.published)
    @rule(data=st.data(), state=st.binary(max_size=2))
    def save_state(self, data, state):
        model = self.of_a_model(data)
        count = len(self.published[model])
        number = data.draw(st.integers(0, count))
        if count - 3 <= number < count:
            self.registry.save_state(model, number, state, "test")
            self.states[model, number] = state
            self.forget_old_states(model)
        else:
            with pytest.raises(StoreError):
                self.registry.save_state(model, number, state, "test")

    @precondition(lambda self: self.published)
    @rule(data=st.data(), right=st.booleans())
    def move_label(self, data, right):
        model = self.of_a_model(data)
        number = data.draw(st.integers(0, len(self.published[model]) - 1))
        if not right:
            with pytest.raises(Conflict):
                self.registry.move_label(model, "stable", number, why="test", expect=998)
        elif self.published[model][number] in self.kept:
            self.registry.move_label(model, "stable", number, why="test", expect=self.labels.get((model, "stable")))
            self.labels[model, "stable"] = number
        else:
            with pytest.raises(NotFound, match="collected"):
                self.registry.move_label(model, "stable", number, why="test")

    @precondition(lambda self: self.published)
    @rule(data=st.data(), identity=st.sampled_from(["x", "y"]))
    def see_a_client(self, data, identity):
        model = self.of_a_model(data)
        number = data.draw(st.integers(0, len(self.published[model]) - 1))
        artifact = self.published[model][number]
        self.registry.saw_clients(model, [Holder(identity=identity, digest=artifact.digest, number=number, round=0)])
        self.clients[model, identity] = (artifact, self.now)

    @rule()
    def a_week_passes(self):
        self.now += WEEK

    @rule(keep=st.none() | st.integers(0, 3))
    def collect(self, keep):
        done = collect(self.registry, Retention(keep=keep, forget_clients=WEEK), grace=timedelta(0))
        self.clients = {who: held for who, held in self.clients.items() if held[1] >= self.now - WEEK}
        needed = {self.published[model][number] for (model, _), number in self.labels.items()}
        needed |= {artifact for artifact, _ in self.clients.values()}
        for artifacts in self.published.values():
            needed |= {artifacts[-1], *artifacts[max(0, len(artifacts) - (len(artifacts) if keep is None else keep)) :]}
        gone = self.kept - needed
        assert {version.digest for version in done.versions} == {artifact.digest for artifact in gone}
        self.kept -= gone
        self.states = {(model, n): state for (model, n), state in self.states.items() if self.has(model, n)}
        assert verify(self.registry).orphans == ()

    def has(self, model, number):
        return self.published[model][number] in self.kept

    @precondition(lambda self: self.published)
    @rule(data=st.data())
    def export(self, data):
        model = self.of_a_model(data)
        numbers = [number for number in range(len(self.published[model])) if self.has(model, number)]
        chosen = sorted(data.draw(st.sets(st.sampled_from(numbers), min_size=1)))
        versions = self.registry.versions(model)
        export_bundle(self.registry, [versions[n] for n in chosen], self.bundles / str(len(self.carried)))
        self.carried.append((model, {number: self.published[model][number] for number in chosen}))

    @precondition(lambda self: self.carried)
    @rule(data=st.data())
    def bring_back(self, data):
        index = data.draw(st.integers(0, len(self.carried) - 1))
        _, content = self.carried[index]
        taken = import_bundle(self.registry, self.bundles / str(index))
        assert set(taken.added) == {number for number, artifact in content.items() if artifact not in self.kept}
        self.kept |= set(content.values())

    @precondition(lambda self: self.carried)
    @rule(data=st.data())
    def carry_to_the_other_model(self, data):
        """Under the other name its numbers are taken by what was published there, if anything was."""
        index = data.draw(st.integers(0, len(self.carried) - 1))
        model, content = self.carried[index]
        other = "b" if model == "a" else "a"
        there = self.published.get(other, [])
        if any(number < len(there) and there[number] != artifact for number, artifact in content.items()):
            with pytest.raises(Conflict):
                import_bundle(self.registry, self.bundles / str(index), model=other)
            return
        new = [number for number in content if number >= len(there)]
        if new == list(range(len(there), len(there) + len(new))):  # else numbers are left out, which lists cannot
            import_bundle(self.registry, self.bundles / str(index), model=other)
            self.published[other] = there + [content[number] for number in new]
            self.kept |= set(content.values())

    @rule()
    def reopen(self):
        self.registry.close()
        self.registry = self.open()

    @invariant()
    def everything_is_there(self):
        for model, artifacts in self.published.items():
            versions = self.registry.versions(model)
            assert [version.digest for version in versions] == [artifact.digest for artifact in artifacts]
            for version, artifact in zip(versions, artifacts, strict=True):
                assert (version.collected is None) == (artifact in self.kept)
                if artifact in self.kept:
                    assert self.registry.load(version) == artifact
                else:
                    with pytest.raises(NotFound, match="was collected"):
                        self.registry.load(version)
            expected = {label: number for (name, label), number in self.labels.items() if name == model}
            assert self.registry.labels(model) == {**expected, "latest": len(artifacts) - 1}
            found = [self.registry.load_state(model, version.number) for version in versions]
            states = [self.states.get((model, version.number)) for version in versions]
            assert found == [None if state is None else ("test", state) for state in states]
            held = {client.identity: client.digest for client in self.registry.clients(model)}
            assert held == {who: one.digest for (name, who), (one, _) in self.clients.items() if name == model}
        assert verify(self.registry).clean


def test_a_registry_behaves_like_lists(tmp_path_factory):
    class Machine(RegistryAgainstLists):
        def make_folder(self):
            return tmp_path_factory.mktemp("store")

    run_state_machine_as_test(Machine, settings=settings(max_examples=15, stateful_step_count=15, deadline=None))
