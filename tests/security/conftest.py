"""One node for all attacks of guests, with the attacker's images; and the attacker itself."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import attacklab
from tests.nodelab import NodeLab


@pytest.fixture(scope="session")
def attack_lab() -> Iterator[NodeLab]:
    # Names of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="node-") as directory:
        yield attacklab.attack_lab(Path(directory))


@pytest.fixture(scope="session")
def attacker_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The attacker as a program of this machine."""
    program = tmp_path_factory.mktemp("attacker") / "attacker"
    subprocess.run(
        ["gcc", "-O1", "-static", "-o", program, attacklab.PROGRAM], check=True, timeout=60
    )
    return program
