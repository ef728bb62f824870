"""What README and `flserve run --help` print can be typed: settings compose, commands exist, code compiles."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from typer.testing import CliRunner

from flserve_app.cli import app
from flserve_app.config import load

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
NAMED = {"<day>/<time>": "DAY/TIME", "[-m] [--resume RUN] [KEY=VALUE ...]": ""}


def typed(text, start):
    """Return the commands of a text that begin so, as lists of words without comments."""
    for before, after in NAMED.items():
        text = text.replace(before, after)
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(start)]


IN_README = [words for kind, text in BLOCKS if kind == "bash" for words in typed(text, "flserve ")]
HELP = CliRunner().invoke(app, ["run", "--help"]).stdout
IN_HELP = typed(re.sub(r"(?m)^  (flserve run.*?)(  .*)?$", r"\1", HELP), "flserve run")
RUNS = [words for words in (*IN_README, *IN_HELP) if words[1] == "run"]


def first_of_each(overrides):
    """Return the overrides of a sweep's first job."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{one.get_key_element()}={next(one.sweep_string_iterator())}" if one.is_sweep_override() else text
        for one, text in zip(parsed, overrides, strict=True)
    ]


def test_there_are_examples():
    assert len(IN_README) > 12
    assert len(IN_HELP) > 4
    assert len(RUNS) > 10


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_a_run_that_is_printed_composes(words):
    overrides = words[2:]
    if "--resume" in overrides:
        at = overrides.index("--resume")
        del overrides[at : at + 2]
    swept = [word for word in overrides if word != "-m"]
    assert load(first_of_each(swept) if "-m" in overrides else swept).app.num_rounds > 0


@pytest.mark.parametrize("words", [words for words in IN_README if words[1] not in ("run", "bench")], ids=" ".join)
def test_a_command_that_is_printed_has_its_options(words):
    told = CliRunner().invoke(app, [words[1], "--help"], env={"COLUMNS": "200"})
    assert told.exit_code == 0
    for option in (word for word in words[2:] if word.startswith("--")):
        assert option in told.stdout, option


def test_settings_of_flwr_run_compose():
    (line,) = (words for kind, text in BLOCKS if kind == "bash" for words in typed(text, "flwr run . --stream --fed"))
    given = tomllib.loads(line[-1].replace('" ', '"\n'))
    assert load([f"experiment={given['experiment']}", *given["overrides"].split()]).app.seed == 7


def test_code_that_is_printed_compiles():
    found = [text for kind, text in BLOCKS if kind == "python"]
    assert len(found) > 2
    for text in found:
        compile(text, "README", "exec")
    for text in (text for kind, text in BLOCKS if kind == "toml"):
        tomllib.loads(text)


@pytest.mark.parametrize("name", sorted(path.stem for path in (PROJECT / "conf" / "experiment").glob("*.yaml")))
def test_every_experiment_composes(name):
    assert load([f"experiment={name}"]).app.num_rounds > 0
