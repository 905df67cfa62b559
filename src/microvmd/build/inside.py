"""The program that runs *inside* the builder's root: unpack, build, write the root file system.

It is copied into that root and run by the root's own Python, in a build microVM or in namespaces,
so it uses the standard library alone. The job is ``job.json`` (see ``job.py``) in the folder of
extras, or on the disk with that folder that its one argument names. What it prints is the build
log, and its exit code says how it went. Nothing it writes is trusted by the host.

All that depends on the isolation is handed in as mounts; every path below is the same in both.
"""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

BUILD = Path("/build")
STORE, WORK = BUILD / "store", BUILD / "store" / "work"
STATE = Path("/run/build")
PLACES = STATE / "places.json"
EXTRAS = BUILD / "extras"
NAMES = STORE / "names.json"
IMAGE_ID = STATE / "image"
PACKER = "mkfs.erofs"
PATH_LIMIT = 4000  # of the 4096 that the kernel takes at once
RESULT_BYTES = 1 << 20
EXIT_FAILED, EXIT_FULL, EXIT_UNPACK, EXIT_TOO_LARGE = 10, 11, 12, 13
# Left behind by the mounts that the engine and we put over them while RUN steps ran.
STUBS = (
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/pip.conf",
    "/usr/local/etc/npmrc",
    "/run/.containerenv",
)
STUB_FOLDERS = ("/run/build-ca", "/run/secrets")


def main() -> int:
    """Do the job; the exit code is one of EXIT_*."""
    if sys.argv[1:2] == ["--finish"]:
        finish_in_chroot(Path(sys.argv[2]))
        return 0
    if len(sys.argv) > 1:
        call(["mount", "-t", "erofs", "-o", "ro", sys.argv[1], str(EXTRAS)])
    job: dict[str, Any] = json.loads((EXTRAS / "job.json").read_text())
    STATE.mkdir(parents=True, exist_ok=True)
    for mount in job["mounts"]:
        Path(mount["target"]).mkdir(parents=True, exist_ok=True)
        call(
            ["mount", "-t", mount["kind"], "-o", mount["options"], mount["source"], mount["target"]]
        )
    remove_work()
    (WORK / "tmp").mkdir(parents=True)
    space = Space()
    space.start()
    try:
        return run(job)
    except subprocess.CalledProcessError as error:
        program = Path(error.cmd[0]).name
        say(f"error: {program} ended with exit code {error.returncode}")
        if space.was_short():
            return EXIT_FULL
        return EXIT_TOO_LARGE if program == PACKER else EXIT_FAILED
    except Unpackable as error:
        say(f"error: {error}")
        return error.code
    except OSError as error:
        say(f"error: {error}")
        return EXIT_FULL if space.was_short() else 1
    finally:
        space.was_short()
        remove_work()
        for mount in reversed(job["mounts"]):
            call(["umount", mount["target"]], check=False)


def remove_work() -> None:
    """By ``rm``: a step may have left folders in a cache mount that are too deep for any path."""
    call(["rm", "-rf", "--one-file-system", str(WORK)], check=False)


def run(job: dict[str, Any]) -> int:
    """Everything between the mounts."""
    try:
        unpack(job)
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, NotImplementedError) as error:
        say(f"error: the archive cannot be unpacked: {error}")
        return EXIT_UNPACK
    settle_dockerfile(job)
    configure_storage(job)
    name_bases(job["names"])
    build(job)
    image_id = IMAGE_ID.read_text().strip()
    image = inspect(image_id)
    if image["Docker"]["config"].get("OnBuild"):
        # The engine would run these steps when it mounts the image, outside of the build.
        say("error: ONBUILD in the last stage has no use: no image is built from this one")
        return EXIT_FAILED
    pack(job, image_id, image)
    result = json.dumps(image).encode()
    if len(result) >= RESULT_BYTES:
        say("error: the image configuration is too large")
        return EXIT_FAILED
    with open(job["result"], "r+b") as file:
        file.write(result.ljust(RESULT_BYTES))
        file.flush()
        os.fsync(file.fileno())
    return 0


def unpack(job: dict[str, Any]) -> None:
    """Write the files of the zip below WORK/context; the host has checked the entries."""
    context = WORK / "context"
    context.mkdir()
    archive = Path(job["archive"])
    if stat.S_ISBLK(archive.stat().st_mode):
        archive = trim(archive, job["archive_size"])
    with zipfile.ZipFile(archive) as source:
        for entry in source.infolist():
            parts = entry.filename.removesuffix("/").split("/")
            if any(part in ("", ".", "..") for part in parts):
                raise ValueError(f"bad name {entry.filename!r}")
            target = context.joinpath(*parts)
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(entry) as packed, target.open("xb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
            mode = entry.external_attr >> 16
            target.chmod(0o755 if mode & 0o111 else 0o644)


def trim(device: Path, size: int) -> Path:
    """A disk is a multiple of 512 bytes, a zip is read from its exact end."""
    archive = WORK / "archive.zip"
    with device.open("rb") as source, archive.open("xb") as file:
        left = size
        while left and (piece := source.read(min(left, 1 << 20))):
            file.write(piece)
            left -= len(piece)
    return archive


def settle_dockerfile(job: dict[str, Any]) -> None:
    """Replace the lines that ask for another architecture."""
    lines = (
        (WORK / "context" / "Dockerfile").read_text("utf-8-sig").replace("\r\n", "\n").split("\n")
    )
    for number, line in job["lines"].items():
        lines[int(number)] = line
    (WORK / "Dockerfile").write_text("\n".join(lines))


def configure_storage(job: dict[str, Any]) -> None:
    """Layers in the account's own store, base images from read-only ones beside it."""
    stores = ", ".join(json.dumps(path) for path in job["bases"])
    (STATE / "storage.conf").write_text(
        '[storage]\ndriver = "overlay"\nrunroot = "/run/containers"\n'
        f'graphroot = "{STORE}/storage"\n'
        f"[storage.options]\nadditionalimagestores = [{stores}]\n"
    )
    (STATE / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
    (Path("/run/containers")).mkdir(exist_ok=True)


def name_bases(names: dict[str, str]) -> None:
    """Give base images the names that this Dockerfile uses, and take former ones away."""
    former: dict[str, str] = json.loads(NAMES.read_text()) if NAMES.exists() else {}
    gone = [name for name, image in former.items() if names.get(name) != image]
    if gone:
        # Removes the name alone: the image itself is in a read-only store.
        call([*BUILDAH, "rmi", "--force", *gone], check=False, quiet=True)
    for name, image in names.items():
        call([*BUILDAH, "tag", image, name], quiet=True)
    NAMES.write_text(json.dumps(names))


# No --storage-driver: it would throw away the options of storage.conf, the base stores among them.
BUILDAH = ["buildah"]


def build(job: dict[str, Any]) -> None:
    """Run the Dockerfile. Each option is explained in docs or has its reason here."""
    argv = [*BUILDAH, "build", "--isolation", "oci", "--runtime", "crun", "--layers"]
    argv += ["--format", "docker"]  # the OCI format drops HEALTHCHECK
    argv += ["--timestamp", str(job["timestamp"])]
    argv += ["--network", "host"]  # the network is already that of the microVM or namespace
    # No --tag: a name would let the account's next Dockerfile take this image as its base.
    argv += [f"--pull={job['pull']}", "--iidfile", str(IMAGE_ID)]
    argv += ["--file", str(WORK / "Dockerfile")]
    for limit in job["ulimits"]:
        argv += ["--ulimit", limit]
    for volume in job["volumes"]:
        argv += ["--volume", volume]
    argv += [str(WORK / "context")]
    call(argv)


def inspect(image_id: str) -> dict[str, Any]:
    """Read the image's configuration as the engine has it."""
    output = call([*BUILDAH, "inspect", "--type", "image", image_id], quiet=True)
    image: dict[str, Any] = json.loads(output)
    return {"Docker": {"config": image["Docker"]["config"] or {}}}


def pack(job: dict[str, Any], image_id: str, image: dict[str, Any]) -> None:
    """Write the image's files as a compressed, reproducible erofs."""
    container = call([*BUILDAH, "from", "--pull=never", image_id], quiet=True).strip()
    try:
        root = Path(call([*BUILDAH, "mount", container], quiet=True).strip())
        finish(root, image)
        check_files(root, job["files_limit"])
        say("packing the root file system")
        argv = [PACKER, "-zlz4", "--quiet", "--all-time", "-T", str(job["timestamp"])]
        argv += ["-U", job["uuid"], job["output"], str(root)]
        call(argv)
    finally:
        call([*BUILDAH, "rm", container], check=False, quiet=True)


class Unpackable(Exception):
    """The packer cannot make a file system of the image's files; ``code`` is one of EXIT_*."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def check_files(root: Path, limit: int) -> None:
    """Refuse holes of terabytes, which cost no disk here but would be read to the last byte."""
    seen: set[int] = set()
    total = 0
    pending = [os.fspath(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if len(os.fsencode(entry.path)) > PATH_LIMIT:
                    raise Unpackable(EXIT_FAILED, "the image has a path that is too long")
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    pending.append(entry.path)
                elif stat.S_ISREG(found.st_mode) and found.st_ino not in seen:
                    if found.st_nlink > 1:
                        seen.add(found.st_ino)
                    total += found.st_size
                    if total > limit:
                        name = ascii(entry.path.removeprefix(os.fspath(root)))[:200]
                        why = f"the image's files exceed {limit} bytes at {name}"
                        raise Unpackable(EXIT_TOO_LARGE, why)


def finish(root: Path, image: dict[str, Any]) -> None:
    """Remove the stubs of mounts, and make the folders that the configuration promises.

    In a process of its own that is in a chroot: the image's symbolic links lead nowhere else.
    """
    config = image["Docker"]["config"]
    places = [config.get("WorkingDir") or "/", *(config.get("Volumes") or {})]
    PLACES.write_text(json.dumps(places))
    call([sys.executable, "-I", __file__, "--finish", str(root)])


def finish_in_chroot(root: Path) -> None:
    """The other process of ``finish``. It is root, and all files around it are the image's."""
    places: list[str] = json.loads(PLACES.read_text())
    os.chroot(root)
    os.chdir("/")
    # An import, be it for a traceback, would run the image's own Python files outside of any step.
    sys.path.clear()
    sys.meta_path.clear()
    remove_stubs()
    for place in places:
        make_folders(place)


def make_folders(place: str) -> None:
    """As ``Path.mkdir(parents=True)``, which recurses: a path may have two thousand parts."""
    parts = [part for part in place.split("/") if part]
    for end in range(1, len(parts) + 1):
        with contextlib.suppress(OSError, ValueError):
            os.mkdir("/" + "/".join(parts[:end]))


def remove_stubs() -> None:
    """A file with content, or a folder with files, is the user's own and stays."""
    for name in STUBS:
        path = Path(name)
        with contextlib.suppress(OSError):
            if not path.is_symlink() and path.is_file() and path.stat().st_size == 0:
                path.unlink()
    for name in STUB_FOLDERS:
        path = Path(name)
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()


def call(argv: list[str], *, check: bool = True, quiet: bool = False) -> str:
    """Run a command; its output is the build log, or the return value when ``quiet``."""
    environment = os.environ | {
        "CONTAINERS_STORAGE_CONF": str(STATE / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(STATE / "registries.conf"),
        "TMPDIR": str(WORK / "tmp"),
    }
    done = subprocess.run(
        argv, env=environment, check=False, text=True, stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.PIPE if quiet else subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if check and done.returncode:
        if quiet:
            say(done.stderr.strip())
        raise subprocess.CalledProcessError(done.returncode, argv)
    return done.stdout or ""


class Space(threading.Thread):
    """Watches the store's disk: a step that fills it frees it again before its failure is seen."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._short = False

    def run(self) -> None:
        """Look five times a second until asked for the answer."""
        while not self._short and not self._over.wait(0.2):
            usage = os.statvfs(STORE)
            self._short = usage.f_bavail * usage.f_frsize < 4 << 20 or usage.f_favail < 64

    def was_short(self) -> bool:
        """Stop looking; say whether there was ever no room left."""
        self._over.set()
        self.join()
        return self._short


def say(line: str) -> None:
    """Write one line of the build log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
