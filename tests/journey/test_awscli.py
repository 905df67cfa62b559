"""The README's walk, word for word, with the unmodified AWS CLI.

The commands are read from the README, so that what it promises is what runs. Only the service
differs: it is the tests' own, with the same profile name and another root directory.
"""

import re
from pathlib import Path

import pytest

from tests.checkout import CHECKOUT
from tests.pages import run_page
from tests.servicelab import Service

pytestmark = [pytest.mark.vm, pytest.mark.journey, pytest.mark.timeout(900)]


def test_the_walk_of_the_readme(service: Service, tmp_path: Path) -> None:
    said = run_page(service, CHECKOUT / "README.md", tmp_path)
    assert "Hello from hello on microvm-" in said
    # Counted to 1, suspended, resumed, counted on.
    assert re.findall(r'"count": ?(\d+)', said) == ["1", "2"]
