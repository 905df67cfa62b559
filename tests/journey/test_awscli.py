"""The README's walk, word for word, with the unmodified AWS CLI.

The commands are read from the README, so that what it promises is what runs. Only the service
differs: it is the tests' own, with the same profile name and another root directory.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servicelab import CHECKOUT, Service

pytestmark = [pytest.mark.vm, pytest.mark.journey]

HEADING = "## The walk, with the AWS CLI"
DEFAULT_ROOT = "/var/lib/microvmd"
LIMIT = 280


def _walk() -> str:
    section = (CHECKOUT / "README.md").read_text().split(HEADING, 1)[1]
    found = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_walk_of_the_readme(service: Service, tmp_path: Path) -> None:
    # The walk writes into the checkout it is in: this one stays as it is.
    shutil.copytree(CHECKOUT / "examples" / "hello", tmp_path / "examples" / "hello")
    (tmp_path / "build").mkdir()
    (tmp_path / ".venv").symlink_to(CHECKOUT / ".venv")
    text = _walk()
    assert DEFAULT_ROOT in text
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text.replace(DEFAULT_ROOT, str(service.root))],
        cwd=tmp_path,
        env=service.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{service.said()}"
    assert "Hello from hello on microvm-" in done.stdout
    # Counted to 1, suspended, resumed, counted on.
    assert re.findall(r'"count": ?(\d+)', done.stdout) == ["1", "2"]
