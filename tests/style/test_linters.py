"""The linters, as tests: one report tells all that is wrong, and CI needs no second command."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import CHECKOUT

BIN = Path(sys.executable).parent
LINTERS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy", "--strict"],
    "types-of-tests": [
        "mypy",
        "--strict",
        "--namespace-packages",
        "--explicit-package-bases",
        "--exclude=tests/apps/",  # programs that run in guests, as examples/ are
        "tests",
        "bench",
    ],
    "layers": ["lint-imports"],
}


@pytest.mark.parametrize("name", LINTERS)
def test_linter(name: str) -> None:
    program, *arguments = LINTERS[name]
    done = subprocess.run(
        [BIN / program, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "script",
    sorted(path.relative_to(CHECKOUT).as_posix() for path in CHECKOUT.glob("scripts/*.sh")),
)
def test_shell_parses(script: str) -> None:
    subprocess.run(["bash", "-n", script], cwd=CHECKOUT, check=True)
