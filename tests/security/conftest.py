"""A node with an ordinary image, one with the attacker's images, and the attacker itself."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import attacklab
from tests.nodelab import NodeLab


@pytest.fixture(scope="session")
def attack_lab() -> Iterator[NodeLab]:
    with attacklab.attack_lab() as lab:
        yield lab


@pytest.fixture(scope="session")
def lab() -> Iterator[NodeLab]:
    with NodeLab.with_image() as lab:
        yield lab


@pytest.fixture(scope="session")
def attacker_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attacker as a program of this machine."""
    program = tmp_path_factory.mktemp("attacker") / "attacker"
    subprocess.run(
        ["gcc", "-O1", "-static", "-o", program, attacklab.PROGRAM], check=True, timeout=60
    )
    return program
