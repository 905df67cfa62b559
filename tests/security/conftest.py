"""One node for all attacks of guests, with the attacker's images; and the attacker itself."""

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
def attacker_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attacker as a program of this machine."""
    program = tmp_path_factory.mktemp("attacker") / "attacker"
    subprocess.run(
        ["gcc", "-O1", "-static", "-o", program, attacklab.PROGRAM], check=True, timeout=60
    )
    return program
