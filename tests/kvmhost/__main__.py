"""By hand: runs a command in a KVM host that holds this checkout.

    python -m tests.kvmhost pytest tests/vm/test_boot_restore.py -q
    python -m tests.kvmhost sh -c 'dmesg | tail'

The command runs as root in the root of the checkout; what it prints comes as it prints it, and its
exit code is ours. ``--get PATH`` copies a file of the host to the present directory afterwards.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from tests.kvmhost.machine import OUTPUT, HostFailed, kvm_host
from tests.kvmhost.root import INSIDE
from tests.kvmhost.sending import ENVIRONMENT, send

PASSED_ON = ("MICROVMD_", "PYTEST_", "PYTHON")
NOT_PASSED_ON = {"MICROVMD_ASSETS", "PYTHONPATH", "PYTHONHOME"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command in a KVM host.")
    parser.add_argument("--limit", type=float, default=900, help="seconds for the command")
    parser.add_argument("--get", action="append", default=[], help="file of the host to copy here")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    argv = options.command or parser.error("which command?")
    if argv[0] in ("pytest", "python"):
        argv = ["python3", *(["-m", "pytest"] if argv[0] == "pytest" else []), *argv[1:]]
    began = time.monotonic()
    with kvm_host() as host:
        send(host)
        sys.stderr.write(f"the KVM host is ready after {time.monotonic() - began:.1f} s\n")
        done = host.run(
            argv, env={**_passed_on(), **ENVIRONMENT}, cwd=INSIDE, limit=options.limit, sink=_show
        )
        for path in options.get:
            Path(os.path.basename(path)).write_bytes(host.get(path))
    return done.code


def _passed_on() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED_ON) and name not in NOT_PASSED_ON
    }


def _show(kind: bytes, data: bytes) -> None:
    stream = sys.stdout if kind == OUTPUT else sys.stderr
    stream.buffer.write(data)
    stream.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HostFailed as failed:
        sys.exit(f"kvm host: {failed}")
