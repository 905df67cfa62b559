"""A process that was given few open files takes all that it may have."""

import subprocess
import sys

import pytest

SHOWN = """
import resource
from microvmd.service.open_files import take_all
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
take_all()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_all_that_it_may_have(soft: int, hard: int) -> None:
    argv = [sys.executable, "-c", SHOWN.format(soft=soft, hard=hard)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [str(hard), str(hard)]
