"""Files and functions stay small, and every module says why it exists and has a name of its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkout import CHECKOUT

SOURCE = CHECKOUT / "src" / "microvmd"
FILE_LINES = 500
FUNCTION_LINES = 80
# A function without a home shows a missing noun; these names hide it.
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "core"}
BANNED_TEXT = re.compile(rf"\b(TODO|FIXME|HACK|XXX)\b|{re.escape(str(CHECKOUT))}/")
PYTHON = sorted(
    path
    for folder in ("src", "tests", "bench", "examples")
    for path in (CHECKOUT / folder).rglob("*.py")
)
NATIVE = sorted(
    path
    for folder in ("guest", "jailer", "scripts")
    for path in (CHECKOUT / folder).rglob("*")
    if path.suffix in (".rs", ".sh") and "target" not in path.parts
)


def _name(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=_name)
def test_file_size(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES, f"{lines} lines: cut it where two names appear"


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_function_size(path: Path) -> None:
    long = [
        f"{node.name}: {size} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (size := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", PYTHON, ids=_name)
def test_module_says_why(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "a module opens with its reason"


@pytest.mark.parametrize("path", [*PYTHON, *NATIVE], ids=_name)
def test_names_and_words(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    if path.parent != Path(__file__).parent:  # the rules themselves name what they ban
        found = BANNED_TEXT.search(path.read_text())
        assert not found, f"{found[0]} does not belong into the repository" if found else ""


def _handlers(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id == "Exception"
            )
            if broad:
                yield node


@pytest.mark.parametrize(
    "path", [path for path in PYTHON if path.is_relative_to(SOURCE)], ids=_name
)
def test_broad_excepts_log_or_raise(path: Path) -> None:
    """``except Exception`` stands at a task or request border, and there it logs."""
    for handler in _handlers(ast.parse(path.read_text())):
        text = ast.unparse(handler)
        assert re.search(r"\b_?log\w*\.|\braise\b", text), f"line {handler.lineno} swallows errors"


# inside.py is sent into the builder and runs there with nothing but the standard library.
SUBPROCESS_DOORS = {SOURCE / "vmm" / "process.py", SOURCE / "build" / "inside.py"}


def test_one_door_to_subprocess() -> None:
    for path in SOURCE.rglob("*.py"):
        if path in SUBPROCESS_DOORS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert "subprocess" not in names, f"{_name(path)} starts processes by itself"


def test_unit_tests_mirror_the_source() -> None:
    """A module with real resources may have `test_<module>.py`, or with its package's name before
    that, in another folder of tests instead."""
    tests = CHECKOUT / "tests"
    real = {path.name for path in tests.rglob("test_*.py") if tests / "unit" not in path.parents}
    missing = []
    for path in SOURCE.rglob("*.py"):
        module = path.relative_to(SOURCE)
        if path.name == "__init__.py" or "migrations" in module.parts:
            continue
        unit = CHECKOUT / "tests" / "unit" / module.parent / f"test_{module.stem}.py"
        names = {f"test_{module.stem}.py", f"test_{'_'.join(module.with_suffix('').parts)}.py"}
        if not unit.exists() and not names & real:
            missing.append(module.as_posix())
    assert not missing, "without a test file of their own in tests/unit or one with real resources"


def test_unit_tests_name_a_module() -> None:
    stray = [
        test.relative_to(CHECKOUT).as_posix()
        for test in (CHECKOUT / "tests" / "unit").rglob("test_*.py")
        if not (
            SOURCE
            / test.relative_to(CHECKOUT / "tests" / "unit").parent
            / test.name.removeprefix("test_")
        ).exists()
    ]
    assert not stray
