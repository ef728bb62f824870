"""What holds for the package as a whole."""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import flserve_app

PACKAGE = Path(flserve_app.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 300
MAX_FUNCTION_LINES = 60
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "manager"}
PICKLES = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}


def name_of(path):
    return path.relative_to(PACKAGE.parent).as_posix()


@cache
def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def linted():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [*command, "--no-cache"], cwd=PACKAGE.parent, env=environment, capture_output=True, text=True, check=False
    )


def test_the_import_contracts_are_kept(linted):
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "0 broken" in linted.stdout


def test_a_module_is_short_has_a_docstring_and_a_telling_name():
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}
    assert [name_of(path) for path in MODULES if not ast.get_docstring(tree_of(path))] == []
    assert [name_of(path) for path in MODULES if path.stem in FORBIDDEN_NAMES] == []


def test_functions_are_short():
    long = [
        f"{name_of(path)}: {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_nothing_is_pickled_or_evaluated():
    found = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            imported = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                imported = {(node.module or "").split(".")[0]}
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec")
            if imported & PICKLES or called:
                found.append(f"{name_of(path)}:{node.lineno}")
    assert not found


def test_nothing_is_asserted_and_no_exception_is_swallowed_whole():
    found = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            bare = isinstance(node, ast.ExceptHandler) and node.type is None
            if bare or isinstance(node, ast.Assert):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert not found


def test_every_folder_of_the_package_is_a_package():
    assert all((path.parent / "__init__.py").is_file() for path in MODULES)


@pytest.mark.slow
def test_a_client_process_loads_no_catalog():
    """On a SuperLink every message has a process of its own."""
    loaded = "import sys, flserve_app.client_app; print('sqlalchemy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "False"
