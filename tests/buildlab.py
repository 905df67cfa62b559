"""What the build tests share: contexts, a tiny base with a shell, a look inside erofs.

The builder root and the bases made from Debian are costly and never changed by a build, so they
come from the machine's cache; layers and test bases are each test's own.
"""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from moto.server import ThreadedMotoServer

from microvmd.build.archive import Archive, ArchiveLimits, inspect
from microvmd.build.in_microvm import MicrovmWorkshop
from microvmd.node import kernel
from microvmd.node.jail import Jails
from microvmd.node.network import NetworkPool
from microvmd.vmm.choice import choose
from microvmd.vmm.machine import Wanted
from tests.accelerated import accelerator
from tests.checkout import ASSETS
from tests.lanes import Lane
from tests.nodelab import FIRECRACKER, vmm_kind

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CACHE = Path(os.environ.get("MICROVMD_CACHE", "/var/cache/microvmd"))
TOOLS = ("dash", "cat", "id", "sleep", "ln", "mkdir", "rm")
STATIC_PROGRAM = '#include <unistd.h>\nint main(void) { return write(1, "hello\\n", 6) != 6; }\n'


def cache(directory: Path, *, shared: tuple[str, ...] = ("builder",)) -> Path:
    """A cache below ``directory``, in which the named parts are the machine's own."""
    made = directory / "cache"
    made.mkdir()
    for part in shared:
        (CACHE / part).mkdir(parents=True, exist_ok=True)
        (made / part).symlink_to(CACHE / part)
    return made


@contextlib.contextmanager
def aws() -> Iterator[tuple[str, "S3Client"]]:
    """S3 and STS at a URL of their own, and a client to fill the bucket `code` with."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        yield _url(server), stack.enter_context(contextlib.closing(_with_bucket(_url(server))))


def _url(server: ThreadedMotoServer) -> str:
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


def _with_bucket(url: str) -> "S3Client":
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="code")
    return client


def context(directory: Path, files: Mapping[str, str | bytes]) -> Archive:
    """A checked code artifact with these files."""
    path = directory / "context.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return inspect(path, ArchiveLimits())


@contextlib.asynccontextmanager
async def workshop(directory: Path) -> AsyncIterator[MicrovmWorkshop]:
    """Build machines with networks and user ids of their own."""
    guest = await asyncio.to_thread(kernel.prepare, ASSETS, CACHE)
    vmm = (await choose(Wanted(vmm_kind()), accelerator(), FIRECRACKER)).vmm
    run = directory / "run"
    run.mkdir()
    with Lane.claimed(str(directory)) as lane:
        jailing = dataclasses.replace(lane.jails(CACHE), surroundings=vmm.surroundings)
        async with NetworkPool(lane.networks(run)) as networks:
            with contextlib.closing(await Jails.open(jailing)) as jails:
                yield MicrovmWorkshop(
                    kernel=guest,
                    accelerator=accelerator(),
                    vmm=vmm,
                    networks=networks,
                    jails=jails,
                    host_cpus=2,
                )


def static_program(directory: Path) -> bytes:
    """An executable that needs nothing but the kernel and says hello."""
    (directory / "hello.c").write_text(STATIC_PROGRAM)
    argv = ["gcc", "-static", "-Os", "-s", "-o", f"{directory}/hello", f"{directory}/hello.c"]
    subprocess.run(argv, check=True)
    return (directory / "hello").read_bytes()


def tiny_base(directory: Path) -> Path:
    """A tarball with a shell, a few tools and their libraries, of this machine; about 4 MB."""
    path = directory / "tiny.tar"
    with tarfile.open(path, "w", dereference=True) as tar:
        for place in ("tmp", "etc", "usr", "var"):
            folder = tarfile.TarInfo(place)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        for name in sorted(_closure()):
            tar.add(name, arcname=name.lstrip("/"))
        shell = tarfile.TarInfo("bin/sh")
        shell.type, shell.linkname = tarfile.SYMTYPE, "dash"
        tar.addfile(shell)
    return path


def _closure() -> set[str]:
    files: set[str] = set()
    for tool in TOOLS:
        program = f"/bin/{tool}"
        listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
        words = listed.stdout.split()
        files |= {program, *(word for word in words if word.startswith("/"))}
    return files


def unpacked(erofs: Path, directory: Path) -> Path:
    """The files of an image. For tests alone: the product never does this on the node."""
    target = directory / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["fsck.erofs", f"--extract={target}", os.fspath(erofs)], check=True)
    return target
