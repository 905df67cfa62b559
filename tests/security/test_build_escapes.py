"""Dockerfiles of strangers that reach for what is not theirs: kernel, files, disks, secrets.

What needs a kernel that may be harmed (clock, sysrq, kernel log and memory, core pattern) works in
a build machine of ``test_dockerfile.py``.
"""

import contextlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from microvmd.build import archive as judge
from microvmd.build import builder
from microvmd.build.failure import BuildFailed
from tests import buildlab
from tests.security.buildsite import ATTACK, OTHER, Site, careless, run
from tests.security.hostile import ACTS, tar_of

pytestmark = [pytest.mark.security, pytest.mark.vm, pytest.mark.root, pytest.mark.timeout(280)]

# What stands between a step and the kernel, but for the namespaces and the root around buildah.
NO_CONTAINER = (
    '"--isolation", "oci",',
    '"--isolation", "oci", "--pid", "host", "--cap-add", "all",'
    ' "--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL",'
    ' "--secret", "id=role,src=/build/extras/job.json",'
    ' "--ssh", f"default={WORK}/context/key",',
)
BY_THE_CONTAINER = {
    "mknod-disk",
    "mknod-memory",
    "mount-tmpfs",
    "mount-bind",
    "mount-proc",
    "new-namespace",
    "namespace-of-1",
    "file-by-handle",
    "host-name",
}
"""What is refused by the container of a step alone; the enclosure around it refuses the others."""
STEPS = f"""{ATTACK}
RUN --mount=type=secret,id=role,target=/role --mount=type=ssh cat /role; echo; \\
    test -e /run/buildkit/ssh_agent.0 && echo "sees an agent"; \\
    (sleep 47112 &); mkdir /own; /attack kernel /own
RUN for each in /proc/[0-9]*; do cat $each/comm; done; true
"""


def ssh_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )


def test_acts_of_a_step_and_what_it_leaves(tmp_path: Path) -> None:
    """The kernel's interfaces, secrets that nobody gave, and a process for later steps."""
    key = {"key": ssh_key()}

    async def test(here: Site) -> None:
        await here.build(STEPS, key)
        assert not [act for act in ACTS if f"{act} refused" not in here.log]
        assert "cat: /role: No such file or directory" in here.lines
        assert "sees an agent" not in here.lines
        assert "sleep" not in here.lines
        here.lines.clear()
        await here.build(STEPS, key, careless(tmp_path, NO_CONTAINER), account=OTHER)
        assert {act for act in ACTS if f"{act} worked" in here.lines} >= BY_THE_CONTAINER
        assert '"archive_size"' in here.log
        assert "sees an agent" in here.lines
        assert "sleep" in here.lines

    run(tmp_path, test)


def unpack_as_it_is(tar: bytes, target: Path) -> None:
    """As a careless program would: every member where it says."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            place = target / member.name
            if member.issym():
                place.symlink_to(member.linkname)
            elif member.islnk():
                place.hardlink_to(Path("/", member.linkname))
            elif member.isdev():
                os.mknod(place, stat.S_IFBLK, os.makedev(member.devmajor, member.devminor))
            else:
                place.write_text("escaped")


def unzip_as_it_is(path: Path, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if stat.S_ISLNK(entry.external_attr >> 16):
                (target / entry.filename).symlink_to(archive.read(entry).decode())
            else:
                (target / entry.filename).write_bytes(archive.read(entry))


# What FROM may not be, with a word of the reason. None of it gets as far as the engine.
NAMES = {
    "FROM localhost/microvmd-result": "not in the local store",
    "FROM oci:/build/layout": "no valid image name",
    "FROM dir:/build/bases": "no valid image name",
    "FROM docker-archive:/build/archive.zip": "no valid image name",
    "FROM containers-storage:tiny": "not in the local store",
    "FROM /build/bases": "no valid image name",
    "FROM ../other": "no valid image name",
    "FROM 222222222222/app": "not in the local store",
    "ARG B=oci:/build/layout\nFROM ${B}": "no valid image name",
    "ARG A=oci:/build\nARG B=${A}/layout\nFROM $B": "no valid image name",
    "FROM tiny\nCOPY --from=oci:/build/layout / /x": "no valid image name",
    "FROM tiny\nRUN --mount=type=bind,from=/build/bases,target=/x true": "no valid image name",
    "FROM tiny\nRUN --mount=type=cache,from=other,target=/x true": "not in the local store",
    "FROM tiny\nRUN "
    + "--mount=type=tmpfs,target=/x " * 32
    + "--mount=from=other,target=/y true": ("more than 32 flags"),
}


@pytest.mark.parametrize("dockerfile", NAMES)
def test_a_base_that_nobody_offers_is_refused_up_front(tmp_path: Path, dockerfile: str) -> None:
    async def test(here: Site) -> None:
        reason = await here.refused(dockerfile)
        assert NAMES[dockerfile] in reason
        assert not here.lines

    run(tmp_path, test)


def test_the_engine_would_open_files_of_the_builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is refused for is that there is no image at that place."""
    monkeypatch.setattr(builder, "_local_images", lambda *_: [])

    async def test(here: Site) -> None:
        reason = await here.refused("FROM dir:/build/bases")
        assert "open /build/bases/manifest.json: no such file" in reason

    run(tmp_path, test)


def test_paths_that_leave_the_context_or_the_image(tmp_path: Path) -> None:
    up = tar_of(("../../../../escaped", tarfile.REGTYPE, ""))
    through = tar_of(("way", tarfile.SYMTYPE, f"{tmp_path}"), ("way/escaped", tarfile.REGTYPE, ""))
    hard = tar_of(("hard", tarfile.LNKTYPE, f"..{tmp_path}/root/keys/secret"))

    async def test(here: Site) -> None:
        # Whoever unpacks them as they are has files beside the folder, and what is not his in it.
        naive = tmp_path / "naive" / "two" / "three" / "four"
        naive.mkdir(parents=True)
        for tar in (through, up):
            unpack_as_it_is(tar, naive)
            (tmp_path / "escaped").unlink()
        unpack_as_it_is(hard, naive)
        assert (naive / "hard").samefile(here.canary.secret)
        (naive / "hard").unlink()

        assert "container image build failed" in await here.refused(
            "FROM tiny\nADD a.tar /\n", {"a.tar": through}
        )
        assert "container image build failed" in await here.refused(
            "FROM tiny\nADD a.tar /\n", {"a.tar": hard}
        )
        rootfs = await here.build("FROM tiny\nADD a.tar /in/\n", {"a.tar": up})
        root = buildlab.unpacked(rootfs.erofs, tmp_path)
        (inside,) = root.rglob("escaped")
        assert inside.read_text() == "../../../../escaped"
        assert not (tmp_path / "escaped").exists()
        for source in ("../../etc", "../../../extras", "../../../../usr"):
            step = f"RUN --mount=type=bind,source={source},target=/x cat /x/*"
            assert "no such file or directory" in await here.refused(f"FROM tiny\n{step}\n")
            assert "no such file" in await here.refused(f"FROM tiny\nCOPY {source} /x\n")
        stage = "FROM tiny AS one\nRUN ln -s /build/extras /e && ln -s /build/store /s\nFROM tiny\n"
        step = "RUN --mount=type=bind,from=one,source=/e,target=/x cat /x/job.json"
        assert "no such file or directory" in await here.refused(f"{stage}{step}\n")
        assert "container image build failed" in await here.refused(
            f"{stage}COPY --from=one /e /x\n"
        )
        assert "only supports" in await here.refused("FROM tiny\nRUN --security=insecure id\n")

    run(tmp_path, test)


def test_links_and_doubles_in_the_zip(tmp_path: Path) -> None:
    """Our own judge refuses what ``unzip`` would follow; tests/unit/build has every rule."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("Dockerfile", "FROM tiny\n")
        link = zipfile.ZipInfo("way")
        link.external_attr = 0o120777 << 16
        made.writestr(link, f"{tmp_path}")
        made.writestr("way/escaped", "x")
    naive = tmp_path / "naive"
    naive.mkdir()
    unzip_as_it_is(path, naive)
    assert (tmp_path / "escaped").read_text() == "x"
    with pytest.raises(BuildFailed, match="'way' is a symbolic link"):
        judge.inspect(path, judge.ArchiveLimits())


@contextlib.contextmanager
def disk_of(secret: bytes, directory: Path) -> Iterator[str]:
    """Numbers of a disk that holds this."""
    image = directory / "image"
    image.write_bytes(secret.ljust(1 << 20, b"\0"))
    shown = subprocess.run(
        ["losetup", "--find", "--show", image], check=True, capture_output=True, text=True
    )
    disk = shown.stdout.strip()
    try:
        number = os.stat(disk).st_rdev
        yield f"{os.major(number)}:{os.minor(number)}"
    finally:
        subprocess.run(["losetup", "--detach", disk], check=True)


def test_device_files_of_a_tarball_open_no_disk(tmp_path: Path) -> None:
    with disk_of(b"what others wrote", tmp_path) as numbers:
        _open_no_disk(tmp_path, numbers)


def _open_no_disk(tmp_path: Path, numbers: str) -> None:
    naive = tmp_path / "naive"
    naive.mkdir()
    unpack_as_it_is(tar_of(("disk", tarfile.BLKTYPE, numbers)), naive)
    with (naive / "disk").open("rb", buffering=0) as opened:
        assert opened.read(512).startswith(b"what others wrote")
    devices = tar_of(("disk", tarfile.BLKTYPE, numbers), ("zero", tarfile.CHRTYPE, "1:5"))

    async def test(here: Site) -> None:
        step = "RUN for each in disk zero; do (exec 3< /d/$each && echo opened $each); done; true\n"
        await here.build(f"FROM tiny\nADD d.tar /d/\n{step}", {"d.tar": devices})
        # What any container may open shows that the files are devices and that nothing else holds.
        assert "opened zero" in here.lines
        assert "opened disk" not in here.lines
        assert "cannot open /d/disk: Operation not permitted" in here.log

    run(tmp_path, test)


def test_files_of_the_image_never_run_outside_of_a_step(tmp_path: Path) -> None:
    """A volume too deep to be made, and modules in the place that Python would import to say so."""
    deep = "/" + "/".join("a" * 1900)
    module = b'import os\nos.write(1, b"ran outside\\n")\n'
    names = ("traceback", "linecache", "tokenize", "re", "_pyrepl", "warnings")
    files = {f"lib/{name}.py": module for name in names}
    dockerfile = f"FROM tiny\nCOPY lib /usr/lib/python3.13\nVOLUME {deep}\nWORKDIR /a\n"
    (tmp_path / "lib").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    taken = subprocess.run(
        [sys.executable, "-c", "import traceback"],
        env={"PYTHONPATH": f"{tmp_path / 'lib'}"},
        capture_output=True,
        timeout=60,
    )
    assert b"ran outside" in taken.stdout, "by a Python that looks there"

    async def test(here: Site) -> None:
        await here.build(dockerfile, files)
        assert "ran outside" not in here.log
        # In 1900 folders, which the image has: the program was not stopped by them.
        assert "packing the root file system" in here.lines
        reason = await here.refused("FROM tiny\nONBUILD RUN echo ran outside\n")
        assert "ONBUILD in the last stage" in reason
        assert "ran outside" not in [*here.lines]

    run(tmp_path, test)
