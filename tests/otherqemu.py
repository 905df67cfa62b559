"""Another QEMU than the machine's: a copy that names another package, as after an update."""

import re
import subprocess
from pathlib import Path

from microvmd.vmm.qemu import QEMU


def other_qemu(directory: Path) -> Path:
    """Made in this directory. Its version is another, and all that it does is the same."""
    shown = subprocess.run([QEMU, "--version"], check=True, capture_output=True, timeout=10).stdout
    package = re.search(rb"\((.+)\)$", shown.splitlines()[0])
    assert package is not None, "Debian says which package it is of"
    program = QEMU.read_bytes()
    assert package[1] in program
    copy = directory / "qemu"
    copy.write_bytes(program.replace(package[1], package[1][:-1] + b"~"))
    copy.chmod(0o755)
    return copy


def instead(program: Path, other: Path) -> tuple[str, ...]:
    """Before a command: it and all that it starts find ``other`` in the place of ``program``."""
    bind = 'mount --bind "$0" "$1"; shift; exec "$@"'
    own_mounts = ("unshare", "--mount", "--propagation", "private")
    return (*own_mounts, "sh", "-ec", bind, str(other), str(program))
