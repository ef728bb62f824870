import errno
import importlib.metadata
import json
import math
import threading
import time
from pathlib import Path

import pytest
import yaml

from flserve_app.compose import folder as folder_module
from flserve_app.compose.folder import RunFolder
from flserve_app.errors import ConfigError, Conflict, StoreError
from flserve_app.places import project_outputs
from flserve_app.strategy import RoundRow

CONFIG = {"resume": False, "model_name": None, "store": None, "task": {"name": "t"}, "model": {"name": "m"}, "seed": 1}
RESUMED = {**CONFIG, "resume": True, "seed": 2}
ROW = RoundRow(round=0, version=0, digest="d")
ALSO = {".hydra/overrides.yaml": "- seed=1\n"}


def content_of(path):
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.fixture
def held(tmp_path):
    """A folder that holds a finished run."""
    folder = RunFolder(tmp_path / "r")
    with folder.admitted(CONFIG, ALSO):
        folder.append(ROW)
    folder.write_summary({"seed": 1})
    return folder.path


def test_a_folder_is_made_when_a_run_is_admitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("a/b"))
    folder.check(CONFIG)
    assert folder.path == tmp_path / "a" / "b"
    assert not (tmp_path / "a").exists()
    with folder.admitted(CONFIG, ALSO):
        assert sorted(content_of(folder.path)) == [".hydra/overrides.yaml", "config.yaml", "history.jsonl"]


@pytest.mark.parametrize("name", ["file/run", "n" * 300, "file"])
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"run folder .* cannot be"), RunFolder(tmp_path / name).admitted(CONFIG):
        pass


def test_rows_are_appended_one_a_line(tmp_path):
    folder = RunFolder(tmp_path)
    for number in range(3):
        folder.append(RoundRow(round=number, version=number, digest="d", metrics={"loss": 0.5}))
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[0]["metrics"] == {"loss": 0.5}


def test_history_and_summary_are_strict_json(tmp_path):
    def refuse(word):
        raise AssertionError(word)

    folder = RunFolder(tmp_path)
    odd = {"a": math.nan, "b": math.inf, "c": 1.5, "d\x1b[31m": -math.inf}
    folder.append(RoundRow(round=0, version=0, digest="d", loss=math.nan, train_seconds=math.inf, metrics=odd))
    folder.write_summary({"loss": math.nan, "deep": [{"x": math.inf}]})
    row = json.loads((tmp_path / "history.jsonl").read_text(), parse_constant=refuse)
    assert (row["loss"], row["train_seconds"]) == (None, None)
    assert row["metrics"] == {"a": None, "b": None, "c": 1.5, "d\x1b[31m": None}
    assert "\x1b" not in (tmp_path / "history.jsonl").read_text()
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary == {"loss": None, "deep": [{"x": None}]}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("history.jsonl", lambda folder: folder.append(ROW)),
        ("summary.json", lambda folder: folder.write_summary({})),
        ("config.yaml", lambda folder: folder.admitted(CONFIG).__enter__()),
    ],
)
def test_what_cannot_be_written_is_an_error_with_its_place(tmp_path, name, write):
    (tmp_path / name).mkdir()
    (tmp_path / name / "full").touch()
    with pytest.raises(StoreError, match=rf"{name}.*(cannot be written|directory)"):
        write(RunFolder(tmp_path))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CONFIG, "holds a run: continue it with resume=true, or choose another hydra.run.dir"),
        ({**RESUMED, "model_name": "n"}, "holds one of model 't-m', not of 'n': choose another hydra.run.dir"),
    ],
)
def test_a_folder_that_holds_a_run_takes_no_other(held, config, message):
    before = content_of(held)
    with pytest.raises(Conflict, match=message):
        RunFolder(held).check(config)
    with pytest.raises(Conflict, match=message), RunFolder(held).admitted(config, ALSO):
        pass
    assert content_of(held) == before


@pytest.mark.parametrize("text", [None, "", "[", "a: 1", "\xff", "- 1"])
def test_a_folder_whose_configuration_cannot_be_read_takes_no_other(held, text):
    (held / "config.yaml").unlink()
    if text is not None:
        (held / "config.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(Conflict, match=r"holds one whose config.yaml cannot be read"):
        RunFolder(held).check(RESUMED)


def test_a_run_that_is_resumed_goes_on_in_its_folder(held):
    folder = RunFolder(held)
    with folder.admitted(RESUMED, {".hydra/overrides.yaml": "- seed=2\n"}):
        folder.append(ROW)
    assert yaml.safe_load((held / "config.yaml").read_text())["seed"] == 2
    assert (held / ".hydra/overrides.yaml").read_text() == "- seed=2\n"
    assert len((held / "history.jsonl").read_text().splitlines()) == 2


def test_a_run_that_fails_before_its_first_row_leaves_the_folder_as_it_was(held, tmp_path):
    before = content_of(held)
    for error in (StoreError, KeyboardInterrupt):
        with pytest.raises(error), RunFolder(held).admitted(RESUMED, {".hydra/overrides.yaml": "- seed=2\n"}):
            raise error
    assert content_of(held) == before
    with pytest.raises(StoreError), RunFolder(tmp_path / "new").admitted(CONFIG):
        raise StoreError
    assert sorted(content_of(tmp_path / "new")) == ["config.yaml"]
    with RunFolder(tmp_path / "new").admitted(CONFIG):
        pass


def test_two_runs_that_come_at_once_never_share_a_folder(tmp_path):
    for first, second in ((CONFIG, CONFIG), (RESUMED, RESUMED)):
        folder = tmp_path / str(first["resume"])
        with RunFolder(folder).admitted(first):
            with (
                pytest.raises(Conflict, match=r"holds a run|in use by another run"),
                RunFolder(folder).admitted(second),
            ):
                pass
            assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == first["seed"]


def test_of_many_that_begin_at_once_one_has_the_folder(tmp_path):
    gate, admitted, refused = threading.Barrier(8), [], []

    def one(seed):
        gate.wait()
        try:
            with RunFolder(tmp_path / "r").admitted({**CONFIG, "seed": seed}):
                admitted.append(seed)
                done.wait(10)
        except Conflict:
            refused.append(seed)

    done = threading.Event()
    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    while len(refused) < 7 and any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert len(admitted) == 1
    assert len(refused) == 7


def test_without_locks_a_run_is_admitted(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(folder_module.fcntl, "flock", unsupported)
    with RunFolder(tmp_path / "r").admitted(CONFIG):
        pass


class Installed:
    def __init__(self, text):
        self.text = text

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.text


@pytest.mark.parametrize("text", [None, "", "{}", "nonsense", '{"url": "https://x/y", "dir_info": {"editable": true}}'])
def test_elsewhere_outputs_go_to_the_users_home(monkeypatch, text, tmp_path):
    monkeypatch.delenv("FLSERVE_OUTPUTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(text))
    assert project_outputs() == tmp_path / "flserve"


def test_a_project_installed_in_place_keeps_its_outputs(monkeypatch, tmp_path):
    monkeypatch.delenv("FLSERVE_OUTPUTS", raising=False)
    project = tmp_path / "my project"
    project.mkdir()
    text = json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(text))
    assert project_outputs() == project


def test_a_package_that_is_not_installed_has_no_project(monkeypatch, tmp_path):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.delenv("FLSERVE_OUTPUTS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert project_outputs() == tmp_path / "flserve"


def test_without_a_home_an_outputs_folder_has_to_be_named(monkeypatch):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FLSERVE_OUTPUTS", raising=False)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(None))
    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(ConfigError, match=r"no home folder is known .*FLSERVE_OUTPUTS"):
        project_outputs()
