import importlib.metadata
import json
from pathlib import Path

import pytest

from flserve_app.compose.folder import RunFolder, project_outputs
from flserve_app.errors import StoreError
from flserve_app.strategy import RoundRow


def test_a_folder_is_made_with_its_parents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(Path("a/b"))
    assert folder.path == tmp_path / "a" / "b"
    assert folder.path.is_dir()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"run folder {tmp_path}/file/run cannot be made"):
        RunFolder(tmp_path / "file" / "run")


def test_rows_are_appended_one_a_line(tmp_path):
    folder = RunFolder(tmp_path)
    for number in range(3):
        folder.append(RoundRow(round=number, version=number, digest="d", metrics={"loss": 0.5}))
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [0, 1, 2]
    assert rows[0]["metrics"] == {"loss": 0.5}


def test_files_are_strict_json_whatever_was_measured(tmp_path):
    odd = float("nan"), float("inf"), -float("inf")
    folder = RunFolder(tmp_path)
    folder.append(RoundRow(round=0, version=0, digest="d", loss=odd[0], metrics={"a": odd[1]}, train_seconds=odd[2]))
    folder.write_summary({"rows": [{"loss": odd[0]}], "best": (1.0, odd[1])})

    def strict(name):
        raise ValueError(name)

    row = json.loads((tmp_path / "history.jsonl").read_text(), parse_constant=strict)
    assert (row["loss"], row["metrics"], row["train_seconds"]) == (None, {"a": None}, None)
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=strict)
    assert summary == {"rows": [{"loss": None}], "best": [1.0, None]}


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("history.jsonl", lambda folder: folder.append(RoundRow(round=0, version=0, digest="d"))),
        ("summary.json", lambda folder: folder.write_summary({})),
        ("config.yaml", lambda folder: folder.write_config({})),
    ],
)
def test_what_cannot_be_written_is_an_error_with_its_place(tmp_path, name, write):
    (tmp_path / name).mkdir()
    (tmp_path / name / "full").touch()
    with pytest.raises(StoreError, match=rf"{name}.*(cannot be written|directory)"):
        write(RunFolder(tmp_path))


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
