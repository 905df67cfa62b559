"""Brings this checkout into a KVM host: its files and what has been built from it."""

import importlib.util
import io
import marshal
import os
import struct
import subprocess
import tarfile

from tests.checkout import ASSETS, CHECKOUT
from tests.kvmhost.machine import KvmHost
from tests.kvmhost.root import INSIDE, builder, guest_kernel

SENT = ("src", "tests", "bench", "pyproject.toml")
BUILT = CHECKOUT / "build"
ASSET_NAMES = ("microvmd-agent", "microvmd-jailer", "busybox", "console")
INSIDE_CACHE = "/var/cache/microvmd"
BUILDER_DISK = "/dev/vdb"
ENVIRONMENT = {"MICROVMD_ASSETS": f"{INSIDE}/build/assets", "PYTHONUNBUFFERED": "1"}


def send(host: KvmHost) -> None:
    """What runs in there is this checkout as it is now, with changes that are not committed."""
    host.put(_packed(), INSIDE)
    release = guest_kernel().name
    link = f"{INSIDE}/build/assets/kernel/{release}"
    host.run(["mkdir", "-p", os.path.dirname(link)], limit=60)
    host.run(["ln", "-sfn", f"/usr/lib/kvm-host/kernel/{release}", link], limit=60)
    program = f"{INSIDE}/build/firecracker/firecracker"
    host.run(["ln", "-sfn", program, f"{INSIDE}/build/assets/firecracker"], limit=60)
    _place_builder(host)


def _place_builder(host: KvmHost) -> None:
    """Image builds in there find their tools made, as they do on a machine that built before."""
    home = f"{INSIDE_CACHE}/builder/{builder().digest}"
    host.run(["mkdir", "-p", f"{home}/root"], limit=60)
    done = host.run(["mount", "-t", "erofs", "-o", "ro", BUILDER_DISK, f"{home}/root"], limit=60)
    assert done.code == 0, done.errors
    host.run(["cp", BUILDER_DISK, f"{home}/root.erofs"], limit=120)


def _packed() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in _files():
            archive.add(CHECKOUT / name, arcname=name, filter=_as_root)
            if name.startswith("src/") and name.endswith(".py"):
                _add_compiled(archive, name)
        for name in ASSET_NAMES:
            if (ASSETS / name).exists():
                archive.add(ASSETS / name, arcname=f"build/assets/{name}", filter=_as_root)
        if (BUILT / "firecracker").exists():
            archive.add(BUILT / "firecracker", arcname="build/firecracker", filter=_as_root)
    return buffer.getvalue()


def _add_compiled(archive: tarfile.TarFile, name: str) -> None:
    """What Python would make of it when it is imported first, which takes long in there."""
    code = compile((CHECKOUT / name).read_bytes(), f"{INSIDE}/{name}", "exec", dont_inherit=True)
    # Never compared with its source: flags 1, and a hash that nobody looks at (PEP 552).
    data = importlib.util.MAGIC_NUMBER + struct.pack("<IQ", 1, 0) + marshal.dumps(code)
    entry = tarfile.TarInfo(importlib.util.cache_from_source(name))
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _files() -> list[str]:
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SENT]
    listed = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=CHECKOUT)
    names = [name for name in listed.stdout.split("\0") if name]
    return [name for name in names if (CHECKOUT / name).exists()]


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
