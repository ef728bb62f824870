import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from flserve_app.config import conf_dir, load, new_folder, register_schemas
from flserve_app.config.folders import OwnFolders
from flserve_app.errors import StoreError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def started(*overrides):
    """Return Hydra's configuration of a run, as its callbacks get it."""
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
    return config


def test_the_next_free_name_is_taken():
    names = [new_folder(Path("a/19-37-58")) for _ in range(3)]
    assert names == [Path("a/19-37-58"), Path("a/19-37-58-2"), Path("a/19-37-58-3")]
    assert all(name.is_dir() for name in names)
    Path("a/b").touch()
    assert new_folder(Path("a/b")) == Path("a/b-2")


def test_of_many_at_once_each_gets_its_own():
    gate, made = threading.Barrier(8), []

    def one():
        gate.wait()
        made.append(new_folder(Path("deep/er/now")))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8


@pytest.mark.parametrize("name", ["file/x", "n" * 300])
def test_one_that_cannot_be_made_is_an_error(name):
    Path("file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        new_folder(Path(name))


def test_a_run_gets_a_folder_of_its_own():
    config = started()
    first = str(config.hydra.run.dir)
    Path(first).mkdir(parents=True)
    OwnFolders().on_run_start(config=config, config_name="config")
    assert config.hydra.run.dir == f"{first}-2"
    assert Path(f"{first}-2").is_dir()


def test_a_sweep_gets_one_and_its_jobs_are_told():
    config = started()
    first = str(config.hydra.sweep.dir)
    Path(first).mkdir(parents=True)
    OwnFolders().on_multirun_start(config=config, config_name="config")
    assert config.hydra.sweep.dir == f"{first}-2"
    assert config.hydra.overrides.hydra[-1] == f"hydra.sweep.dir='{first}-2'"


def test_a_folder_that_the_user_named_is_taken_as_it_is():
    config = started("hydra.run.dir=mine", "hydra.sweep.dir=ours")
    OwnFolders().on_run_start(config=config)
    OwnFolders().on_multirun_start(config=config)
    assert (config.hydra.run.dir, config.hydra.sweep.dir) == ("mine", "ours")
    assert not Path("mine").exists()


def test_a_pattern_of_the_users_with_the_time_in_it_is_named_by_the_time():
    config = started("hydra.run.dir='job ${now:%Y}'")
    Path(str(config.hydra.run.dir)).mkdir()
    OwnFolders().on_run_start(config=config)
    assert Path(config.hydra.run.dir).name.endswith("-2")


def test_one_that_cannot_be_made_is_left_to_hydra():
    Path("outputs").touch()
    config = started()
    before = str(config.hydra.run.dir)
    OwnFolders().on_run_start(config=config)
    assert str(config.hydra.run.dir) == before


def test_flower_gets_to_know_too():
    assert load().named_by_time
    assert not load(["hydra.run.dir=mine"]).named_by_time
    assert load(["hydra.run.dir='x/${now:%H}'"]).named_by_time
