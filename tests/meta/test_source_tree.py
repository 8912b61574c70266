"""What holds for every module of the package: what it exports, how long it is, what importing it costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
FILES = sorted((SRC / "tickhouse").rglob("*.py"))
MODULES = [file for file in FILES if file.name != "__main__.py"]
HEAVY = (
    *("aiohttp", "confluent_kafka", "deltalake", "duckdb", "fastapi", "numba", "numpy", "pandas", "polars", "psycopg"),
    *("pyarrow", "pydantic", "pyspark", "redis", "rich", "starlette", "streamlit", "talib", "typer", "uvicorn"),
)
MAX_LINES = 600
MAX_FUNCTION_LINES = 80
"""Of an interpreted function; a compiled loop pays for every call that would shorten it."""
NO_NAMES = {"utils", "common", "helpers", "manager"}


def _module(file: Path) -> str:
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"))


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


@pytest.mark.parametrize("file", MODULES, ids=_module)
def test_all_names_every_public_function_and_class(file: Path):
    tree = _tree(file)
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not any(re.search("command|router", ast.unparse(decorator)) for decorator in node.decorator_list)
    }
    assert public <= set(_exported(tree) or ()), "in __all__, or with an underscore"


@pytest.mark.parametrize("file", MODULES, ids=_module)
def test_all_is_true(file: Path):
    module = importlib.import_module(_module(file))
    names = list(getattr(module, "__all__", ()))
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


@pytest.mark.parametrize("file", FILES, ids=_module)
def test_nobody_imports_a_private_name_of_another_module(file: Path):
    private = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tickhouse")
        for alias in node.names
        if alias.name.startswith("_")
    ]
    assert private == []


@pytest.mark.parametrize("file", FILES, ids=_module)
def test_module_says_what_it_is_for_and_stays_readable(file: Path):
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    if tree.body:
        assert ast.get_docstring(tree)
    assert text.count("\n") <= MAX_LINES
    functions = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any(re.search("jit|compiled", ast.unparse(decorator)) for decorator in node.decorator_list)
    ]
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno is not None}
    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}
    assert NO_NAMES.isdisjoint(file.relative_to(SRC).with_suffix("").parts)


def test_importing_tickhouse_loads_no_heavy_library():
    code = "import sys, tickhouse; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50).stdout.split()
    assert "tickhouse" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_of_the_command_line_loads_no_engine():
    code = "import sys\nfrom typer.testing import CliRunner\nfrom tickhouse.cli import app\n"
    code += "assert CliRunner().invoke(app, ['--help']).exit_code == 0\nprint(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50).stdout.split()
    engines = ("deltalake", "duckdb", "numba", "polars", "pyarrow", "pyspark", "talib")
    assert [name for name in engines if name in loaded] == []


def test_opening_a_house_and_painting_an_answer_load_no_engine():
    code = "import sys, tickhouse.house, tickhouse.cli.screen; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50).stdout.split()
    assert [name for name in ("deltalake", "duckdb", "numba", "pyspark", "talib") if name in loaded] == []
