import json
import re
import shlex

import pytest

from flserve_app.errors import ConfigError, NotFound
from flserve_app.experiments import run as running
from flserve_app.experiments.going_on import going_on
from flserve_app.experiments.stopping import Stopped
from flserve_app.experiments.sweep import run
from flserve_app.registry import Registry
from flserve_app.strategy import RoundRow

pytestmark = pytest.mark.slow

TINY = ["engine=inprocess", "task=synthetic", "task.n=20", "num_clients=2", "codec=topk", "uplink=topk"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("store", [[], ["store=shared"], ["store='a b'"]])
def test_a_run_goes_on_with_its_own_settings_from_wherever_its_store_is(tmp_path, store):
    run([*TINY, "seed=7", "num_rounds=3", "hydra.run.dir=whole"])
    run([*TINY, "seed=7", "num_rounds=1", "hydra.run.dir=first", *store])
    run(going_on(["--resume", "first", "num_rounds=3", "hydra.run.dir=second"]))
    assert summary_of(tmp_path / "second")["final_digest"] == summary_of(tmp_path / "whole")["final_digest"]
    assert summary_of(tmp_path / "second")["resumed_from"] == "v1"
    assert not (tmp_path / "second" / "store").exists()
    # and a run that was resumed is resumed in the same way
    run(going_on([f"--resume={tmp_path / 'second'}", "num_rounds=4", "hydra.run.dir=third"]))
    assert summary_of(tmp_path / "third")["resumed_from"] == "v3"


def test_other_arguments_are_left_alone():
    assert going_on(["-m", "seed=1,2", "resume=true"]) == ["-m", "seed=1,2", "resume=true"]


def test_a_folder_that_does_not_tell_is_refused(tmp_path):
    for arguments in (["--resume"], ["--resume="], ["--resume", "-m"]):
        with pytest.raises(ConfigError, match="followed by the folder of a run"):
            going_on(arguments)
    (tmp_path / "odd" / ".hydra").mkdir(parents=True)
    for text in ("", "{", "a: 1", "\0"):
        (tmp_path / "odd" / ".hydra" / "overrides.yaml").write_text(text)
        with pytest.raises(ConfigError, match="does not tell the settings of its run"):
            going_on(["--resume", "odd"])
    (tmp_path / "odd" / ".hydra" / "overrides.yaml").write_text("- seed=1")
    (tmp_path / "odd" / "config.yaml").write_text("store: nowhere")
    with pytest.raises(NotFound, match=re.escape(f"the store of odd is not there: {tmp_path / 'nowhere'}")):
        going_on(["--resume", "odd"])


@pytest.mark.parametrize("version", [None, 4])
def test_a_run_that_is_stopped_says_where_it_stands_and_how_to_go_on(tmp_path, monkeypatch, version):
    def job(grid, composed, folder, show, also):
        if version is not None:
            show(RoundRow(round=9, version=version, digest="ab" * 32))
        raise Stopped(15)

    monkeypatch.setattr(running, "run_job", job)
    with pytest.raises(Stopped) as stopped:
        run([*TINY, "hydra.run.dir=my run"])
    begun = f" at v4; `flserve run --resume {shlex.quote(str(tmp_path / 'my run'))}` goes on"
    assert stopped.value.then == (" before the first version" if version is None else begun)


def test_jobs_of_a_sweep_close_with_a_line_each(tmp_path, capsys):
    run(["-m", *TINY, "num_rounds=1", "seed=1,2", "hydra.sweep.dir=s"])
    out = capsys.readouterr().out
    assert len(re.findall(r"^v1 [0-9a-f]{12}  accuracy [\d.]+  [\d.]+ % of full  [\d.]+ s$", out, re.M)) == 2
    assert "final digest" not in out
    assert f"table and runs: {tmp_path / 's'}" in out.replace("\n", "")
    with Registry.open(next((tmp_path / "s").glob("0-*")) / "store", create=False) as registry:
        assert len(registry.versions("synthetic-mlp")) == 2


@pytest.mark.parametrize("option", ["--engine", "--num-rounds=3", "--train.lr=1"])
def test_a_setting_that_is_written_as_an_option_is_told(option):
    with pytest.raises(
        ConfigError, match=r"^settings are written KEY=VALUE, as in (engine|num_rounds|train\.lr)=\.\.\."
    ):
        run([*TINY, option])
