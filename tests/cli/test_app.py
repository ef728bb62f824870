from importlib.metadata import version

import pytest

from flserve_app.cli import choice
from flserve_app.cli.history import shown_metrics
from flserve_app.registry import Registry
from tests.cli.test_history import BRAIN, flserve, outputs

__all__ = ["outputs"]


def test_the_version_is_said():
    done = flserve("--version")
    assert (done.exit_code, done.stdout) == (0, f"flserve {version('flserve')}\n")


def test_a_shell_can_complete_commands():
    assert "--install-completion" in flserve("--help").stdout


def test_a_command_that_is_not_there_gets_one_hint():
    done = flserve("logg")
    assert done.exit_code == 2
    assert done.stderr.count("Did you mean") == 1


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_help_of_run_is_short_and_tells_how(option):
    done = flserve("run", option)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) < 40
    assert max(map(len, done.stdout.splitlines())) <= 120
    for word in (" -m ", "inprocess", "outputs/DAY/TIME", "FLSERVE_OUTPUTS", "chartransformer", "topk", "tutorial"):
        assert word in done.stdout


def test_a_store_of_the_environment_is_taken_by_all(outputs, monkeypatch):
    with Registry.open(outputs / "other") as registry:
        registry.publish("later", BRAIN, round=0, codec="full")
    monkeypatch.setenv("FLSERVE_STORE", str(outputs / "run"))
    for command in (["log"], ["show"], ["label"], ["verify"], ["gc", "--dry-run"], ["diff", "v0", "v1"]):
        done = flserve(*command)
        assert (done.exit_code, done.stderr) == (0, ""), command
    assert "later: 1 version" in flserve("log", "--store", outputs / "other").stdout


def test_runs_of_flower_are_found_where_it_puts_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "project_outputs", lambda: tmp_path / "home")
    with Registry.open(tmp_path / "home" / "outputs" / "r" / "store") as registry:
        registry.publish("far", BRAIN, round=0, codec="full")
    assert "far: 1 version" in flserve("log").stdout
    with Registry.open(tmp_path / "outputs" / "r" / "store") as registry:
        registry.publish("near", BRAIN, round=0, codec="full")
    assert "near: 1 version" in flserve("log").stdout


@pytest.mark.parametrize(
    ("rows", "shown"),
    [
        ([], ()),
        ([{"loss": 1, "accuracy": 2}], ("accuracy", "loss")),
        ([{"client_accuracy": 1}, {"accuracy": 1}], ("accuracy",)),
        ([{"client_eval_acc": 1, "eval_loss": 2, "train_x": 3}], ("eval_acc", "eval_loss", "train_x")),
        ([{"a": 1, "b": 1}, {"b": 1}], ("b", "a")),
        ([{name: 1 for name in "fedcba"}], ("a", "b", "c", "d")),
    ],
)
def test_metrics_of_any_name_have_columns(rows, shown):
    assert shown_metrics(rows) == shown


def test_log_shows_them(outputs):
    with Registry.open(outputs / "run" / "store") as registry:
        registry.add_metrics("digits", 3, {"client_eval_acc": 0.75})
    shown = flserve("log").stdout
    assert "eval_acc" in shown
    assert "0.75" in shown
