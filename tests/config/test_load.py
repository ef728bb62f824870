import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flserve_app.compose.parts import model_of, task_spec
from flserve_app.compose.strategies import inner_strategy
from flserve_app.config import AppConfig, checked, conf_dir, load
from flserve_app.config.load import MOST_NAME_BYTES, folder_name
from flserve_app.errors import ConfigError, FlserveError

GROUPS = sorted(path for path in conf_dir().glob("*/*.yaml") if path.parent.name != "experiment")
EXPERIMENTS = sorted(path.stem for path in conf_dir().glob("experiment/*.yaml"))


@pytest.mark.parametrize("text", ["", "seed=1", "x" * 300, "é" * 150])
def test_a_sweep_with_many_overrides_has_folders_that_a_file_system_takes(text, tmp_path):
    name = folder_name(text)
    assert text.startswith(name)
    assert len(name) >= min(len(text), MOST_NAME_BYTES // 2)
    (tmp_path / f"1000000-{name}").mkdir()


def test_the_default_composes():
    composed = load()
    assert isinstance(composed.app, AppConfig)
    assert (composed.app.task.name, composed.app.model.name, composed.app.codec.name) == ("digits", "cnn", "lossless")
    assert composed.resolved["train"]["batch_size"] == composed.app.train.batch_size
    assert "hydra" not in composed.resolved
    assert composed.run_dir.startswith("outputs/")


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_group_option_composes(path):
    composed = load([f"{path.parent.name}={path.stem}"])
    assert getattr(composed.app, path.parent.name).name == path.stem


@pytest.mark.parametrize(
    ("overrides", "model"),
    [
        (["task=digits"], "cnn"),
        (["task=synthetic"], "mlp"),
        (["task=chars"], "chartransformer"),
        (["task=mnist5k"], "cnn"),
        (["task=hub"], "cnn"),
        (["task=synthetic", "model=mlp"], "mlp"),
        (["model=resnet", "task=digits"], "resnet"),
        (["experiment=tutorial"], "mlp"),
        (["experiment=fedbn"], "resnet"),
        (["experiment=fedbn", "model=cnn"], "cnn"),
    ],
)
def test_a_task_brings_its_model_unless_another_is_named(overrides, model):
    assert load(overrides).app.model.name == model


@pytest.mark.parametrize("task", ["digits", "synthetic", "chars"])
def test_the_model_of_a_task_fits_it(task):
    app = load([f"task={task}"]).app
    model_of(app).build(task_spec(app, 2))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_can_be_built(name):
    app = load([f"experiment={name}"]).app
    clients = app.num_clients or 10
    model_of(app).build(task_spec(app, clients))
    inner_strategy(app.strategy, clients)


def test_the_tutorial_is_the_reference_case():
    app = load(["experiment=tutorial"]).app
    assert (app.num_clients, app.strategy.clients_per_round, app.num_rounds, app.seed) == (15, 8, 30, 42)
    assert (app.train.lr, app.train.batch_size, app.train.epochs) == (0.01, 32, 3)
    assert (app.task.name, app.task.n, app.task.dim, app.task.classes) == ("synthetic", 200, 32, 10)
    assert (app.model.name, app.model.arguments) == ("mlp", {"hidden": 64})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["num_rouns=3"],
            "the configuration has no key 'num_rouns'; did you mean 'num_rounds'. `flserve run --cfg job` shows all",
        ),
        (["train.momentun=0.1"], "no key 'train.momentun'"),
        (["codec=zip"], "codec 'zip' is unknown; known: full grid lossless lossless-small topk"),
        (["experiment=none"], "experiment 'none' is unknown; known: "),
        (["num_rounds=many"], "num_rounds: Value 'many' of type 'str' could not be converted to Integer"),
        (["resume=maybe"], "resume: Value 'maybe' is not a valid bool"),
        (["num_rounds=-1"], "num_rounds is -1, expected at least 0"),
        (["~codec"], "Missing mandatory value: name"),
        (["seed=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (["codec=full,lossless"], "Ambiguous value"),
        (["a b c"], "override a b c cannot be read: LexerNoViableAltException"),
        (["codec=[grid"], r"override codec=\[grid cannot be read: no viable alternative at input '\[grid'$"),
        (["roles=[{'head.*': private}]"], r"cannot be read: .* \(keys in braces take no quotes\)$"),
        (["roles=[{head.*:"], r"cannot be read: .* \(one with spaces is quoted as a whole: 'roles=.*'\)$"),
        (["engine"], r"cannot be read: .* \(settings are written KEY=VALUE, without spaces\)$"),
        (["codec=null"], "must be a string or a list"),
        (["codec.arguments.scope=model"], "the configuration has no key 'codec.arguments.scope'"),
        (["+rouns=3"], "no key 'rouns'"),
        (["+train.momentun=0.1"], "no key 'train.momentun'"),
        (["=3"], "must be a string or a list"),
        (["task=../../x"], "task '../../x' is unknown"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_compose_is_refused_in_one_sentence(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(overrides)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~codec", "codec.name: Missing mandatory value: name"),
        ("num_rounds=-1", "num_rounds is -1, expected at least 0"),
        ("seed=x", "seed: Value 'x' of type 'str' could not be converted to Integer"),
    ],
)
def test_a_sentence_is_the_same_under_a_debugger(override, message, monkeypatch):
    monkeypatch.setenv("OC_CAUSE", "1")  # OmegaConf then chains its errors, as it does when it is traced
    with pytest.raises(ConfigError, match=message):
        load([override])


words = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12)


@given(st.lists(words, max_size=2))
def test_no_overrides_end_in_anything_but_a_configuration_or_a_sentence(overrides):
    try:
        load(overrides)
    except FlserveError as error:
        found = str(error)
        assert found
        assert "\n" not in found


def test_the_environment_names_store_and_outputs(monkeypatch):
    assert load().app.store is None
    monkeypatch.setenv("FLSERVE_STORE", "/a b")
    monkeypatch.setenv("FLSERVE_OUTPUTS", "/x")
    composed = load()
    assert (composed.app.store, composed.named_by_time) == ("/a b", True)
    assert composed.run_dir.startswith("/x/outputs/")
    assert load(["store=null"]).app.store is None
    monkeypatch.setenv("FLSERVE_STORE", "")
    assert load().app.store is None


def test_values_of_all_kinds_are_read():
    app = load(["store=/a b", "model=mlp", "model.arguments.hidden=8", "resume=true", "num_clients=3"]).app
    assert (app.store, app.model.arguments, app.resume, app.num_clients) == ("/a b", {"hidden": 8}, True, 3)


def test_the_run_folder_may_be_named():
    assert load(["hydra.run.dir=/somewhere/else"]).run_dir == "/somewhere/else"


def test_threads_may_compose_at_once():
    found = {}

    def compose(seed):
        found[seed] = load([f"seed={seed}"]).app.seed

    threads = [threading.Thread(target=compose, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {seed: seed for seed in range(4)}


def test_a_config_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match="the config is a dict, expected the schema of flserve"):
        checked(OmegaConf.create({"seed": 1}), "")
    with pytest.raises(ConfigError, match="Missing mandatory value: name"):
        checked(OmegaConf.structured(AppConfig), "")


def test_a_package_without_its_conf_says_where_it_looked(monkeypatch, tmp_path):
    from flserve_app.config import load as function

    module = __import__(function.__module__, fromlist=["load"])
    monkeypatch.setattr(module, "__file__", str(tmp_path / "flserve_app" / "config" / "load.py"))
    with pytest.raises(ConfigError, match=f"no conf/config.yaml beside or inside {tmp_path}/flserve_app"):
        conf_dir()
    inside = tmp_path / "flserve_app" / "conf"
    inside.mkdir(parents=True)
    (inside / "config.yaml").touch()
    assert conf_dir() == Path(inside)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model_name='a\x1b[31mb'", "model_name is 1 to 128 letters"),
        ("model_name='a/b'", "model_name is 1 to 128 letters"),
        (f"model_name={'n' * 129}", "model_name is 1 to 128 letters"),
        ("store='/a\x1b]0;x\x07b'", "store is '/ab', expected a path of printable characters"),
        ("store='/a\u202eb'", "store is .*, expected a path of printable characters"),
        ("store=''", "store is '', expected a path"),
        (f"store=/{'n/' * 2100}", "store is .*, expected a path"),
        ("hydra.run.dir='a\x1b[31mb'", "hydra.run.dir is 'ab', expected a path of printable characters"),
    ],
)
def test_names_that_a_run_keeps_are_plain(override, message):
    with pytest.raises(ConfigError, match=message) as found:
        load([override])
    assert str(found.value).isprintable()


@pytest.mark.parametrize(
    "override", ["store='/ä ö/x'", "store='~/x'", "model_name=''", "model_name=a.b-C_9", f"store=/{'n' * 300}"]
)
def test_others_are_taken(override):
    load([override])
