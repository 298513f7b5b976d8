"""Lint, format, types and the import rules are part of the one command, `pytest`."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("serving", "converters", "bench")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "pb" not in path.parts
]
LINES_PER_FILE_MAX = 500
LINES_PER_FUNCTION_MAX = 60


def run(*command: str) -> None:
    tool = shutil.which(command[0], path=str(Path(sys.executable).parent)) or command[0]
    result = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff_finds_nothing():
    run("ruff", "check", ".")


def test_the_code_is_formatted():
    run("ruff", "format", "--check", ".")


def test_mypy_is_content_in_strict_mode():
    run("mypy")


def test_imports_keep_to_their_layers():
    run("lint-imports")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_keep_their_size(path):
    text = path.read_text()
    assert text.count("\n") <= LINES_PER_FILE_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < LINES_PER_FUNCTION_MAX, node.name
