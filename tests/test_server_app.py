import json
import logging
import shlex
import tomllib
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from flserve_app import client_app, server_app
from flserve_app.config import load
from flserve_app.errors import ConfigError, Conflict, FlserveError
from flserve_app.places import project_outputs
from flserve_app.server_app import overrides_of
from tests.fleet import FleetGrid

TINY = "task=synthetic model=mlp task.n=20 task.dim=4 task.classes=3 model.arguments.hidden=4"


def test_overrides_are_words_and_named_keys_come_first():
    config = {"overrides": "codec=full num_rounds=3", "seed": 7, "store": "", "resume": True, "task": "synthetic"}
    assert overrides_of(config) == ["seed=7", "resume=true", "task='synthetic'", "codec=full", "num_rounds=3"]
    assert overrides_of({}) == []


def test_overrides_that_are_no_words_are_refused():
    with pytest.raises(ConfigError, match="overrides cannot be split into words: No closing quotation"):
        overrides_of({"overrides": "store='/a"})


@pytest.mark.parametrize(
    "path",
    [
        "/a b/c",
        "/it's",
        '/a "quoted" one',
        "C:\\stores\\new",
        "C:\\stores\\",
        "\\'",
        "a\\\\'b\\",
        "/a,b",
        "[x]",
        "{a: 1}",
        "007",
        "1e5",
        "true",
        "key=value",
        "~/x",
        "ä/ö",
        "a#b",
        "(1)",
    ],
)
def test_a_store_path_survives_hydras_grammar(path):
    assert parsed(path) == path


def parsed(value):
    """Return what Hydra's grammar makes of a named key's value."""
    (override,) = overrides_of({"store": value})
    return OverridesParser.create().parse_override(override).value()


def test_and_reaches_the_configuration():
    path = '/it\'s "my" store\\, at 1e5'
    assert load(overrides_of({"store": path, "model_name": "1e5"})).app.store == path


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: text != "null"))
def test_any_text_survives(text):
    assert parsed(text) == text


def test_values_come_as_text_or_as_themselves():
    for config in (
        {"num_rounds": "4", "resume": "true", "codec": "full", "experiment": "tutorial", "num_clients": "null"},
        {"num_rounds": 4, "resume": True, "codec": "full", "experiment": "tutorial", "num_clients": "null"},
    ):
        app = load(overrides_of(config)).app
        assert (app.num_rounds, app.resume, app.codec.name, app.num_clients) == (4, True, "full", None)
        assert app.strategy.clients_per_round == 8


@pytest.fixture
def grid():
    return FleetGrid(app=client_app.app, size=3)


def context(**run_config):
    return Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config)


def test_the_server_app_runs_what_the_run_config_says(tmp_path, monkeypatch, grid, capsys, caplog):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path / "out"))
    run_dir = shlex.quote("hydra.run.dir=one two")
    with caplog.at_level("INFO", logger="flwr"):
        server_app.app(grid, context(overrides=f"{TINY} {run_dir}", num_rounds="2", num_clients=3))
    folder = tmp_path / "out" / "one two"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["rounds"], summary["clients"], summary["folder"]) == (2, 3, str(folder))
    assert f"flserve: run folder {folder}" in caplog.text
    assert caplog.text.count("flserve: round ") == 3
    printed = capsys.readouterr().out
    assert summary["final_digest"] in printed
    assert "clients by version" in printed


def test_an_error_is_logged_in_one_line_and_ends_the_run(tmp_path, monkeypatch, grid, caplog, capsys):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="codec 'zip' is unknown"):
        server_app.app(grid, context(codec="zip"))
    assert "flserve: error: codec 'zip' is unknown" in caplog.text
    shared = {"store": str(tmp_path / "a store"), "num_clients": 3, "num_rounds": 1, "overrides": TINY}
    server_app.app(grid, context(**shared))
    with pytest.raises(Conflict, match="is in the store already"):
        server_app.app(grid, context(**shared))
    assert capsys.readouterr().out.count("final digest") == 1


def test_flower_logs_our_error_as_a_sentence_with_the_folder(tmp_path, monkeypatch, grid, caplog):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path / "out"))
    logger = logging.getLogger("flwr")
    try:
        server_app.app(grid, context(num_clients=3, overrides=f"{TINY} strategy=krum hydra.run.dir=r"))
    except FlserveError as error:
        logger.error("%s raised an exception", "Simulation", exc_info=error)
    try:
        raise ValueError("not ours")
    except ValueError as error:
        logger.error("other", exc_info=error)
    logger.removeFilter(server_app.in_one_line)
    ours, theirs = caplog.records[-2:]
    assert ours.getMessage().startswith("Simulation raised an exception: strategy krum needs 5 clients a round")
    assert ours.getMessage().endswith(f"; run folder {tmp_path / 'out' / 'r'}")
    assert ours.exc_info is None
    assert theirs.exc_info is not None


def test_every_key_of_the_run_config_is_one_that_composes():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    declared = project["tool"]["flwr"]["app"]["config"]
    assert {"strategy", "roles"} <= set(declared)
    given = {"strategy": "fedadam", "roles": "[{*norm*: private}, {1.*: statistic}]"}
    app = load(overrides_of({**declared, **given})).app
    assert app.strategy.name == "fedadam"
    assert app.roles == [{"*norm*": "private"}, {"1.*": "statistic"}]
    assert set(declared) - {"overrides", "experiment"} <= set(vars(app))


def test_where_outputs_go(monkeypatch, tmp_path):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path))
    assert project_outputs() == tmp_path
    monkeypatch.delenv("FLSERVE_OUTPUTS")
    assert project_outputs().is_absolute()


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch, grid):
    monkeypatch.setenv("FLSERVE_OUTPUTS", str(tmp_path / "out"))
    again = shlex.quote("hydra.run.dir=x/${now:%Y}")
    for seed in (1, 2, 3):
        server_app.app(grid, context(overrides=f"{TINY} {again}", num_rounds=0, num_clients=3, seed=seed))
    folders = sorted((tmp_path / "out" / "x").iterdir())
    assert len(folders) == 3
    seeds = [json.loads((folder / "summary.json").read_text())["seed"] for folder in folders]
    assert seeds == [1, 2, 3]
