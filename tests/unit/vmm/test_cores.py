"""Of a process that leaves no core, and of what it starts, the kernel writes none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

LIFTED = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (-1, -1)); "
WITHOUT_LIMIT = "resource.setrlimit = lambda *_: None; "
WAIT = "import os; os.write(1, b'.'); import signal; signal.pause()"
LEAVE_NONE = "from microvmd.vmm.cores import leave_none; leave_none(); "


def dumped(code: str, directory: Path) -> bool:
    """Whether the kernel dumps a Python process that runs this code."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=directory, stdout=subprocess.PIPE, env=dict(os.environ)
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        process.send_signal(signal.SIGABRT)
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_code == os.CLD_DUMPED


def test_a_process_leaves_none(tmp_path: Path) -> None:
    assert dumped(LIFTED + WAIT, tmp_path), "this kernel dumps nothing, so nothing can be shown"
    assert not dumped(LIFTED + LEAVE_NONE + WAIT, tmp_path)
    # Nor where the limit does not hold, as where the kernel pipes cores to a program.
    assert not dumped(LIFTED + WITHOUT_LIMIT + LEAVE_NONE + WAIT, tmp_path)


def test_what_it_starts_leaves_no_file(tmp_path: Path) -> None:
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            LEAVE_NONE + "import os; os.execvp('sh', ['sh', '-c', 'ulimit -c'])",
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert shown.stdout.strip() == "0"
